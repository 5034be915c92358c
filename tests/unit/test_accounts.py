"""Whose epsilon it is: names of faces, and photos that are nearly the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from anonymousnet.align.region import FACE
from anonymousnet.align.warp import owners
from anonymousnet.data.synthetic import render_page
from anonymousnet.errors import ProtectionFailed
from anonymousnet.privacy import accounts

PX = 64


def placed(rgb: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """The alignment of one face in the middle, a third of the photo wide, `shift` of its side off."""
    height, width = rgb.shape[:2]
    side = width / 3
    scale = PX / side
    return np.array([[[scale, 0, PX / 2 - scale * (width / 2 + shift * side)],
                      [0, scale, PX / 2 - scale * (height / 2 + shift * side)]]])  # fmt: skip


def sketched(rgb: np.ndarray, shift: float = 0.0) -> bytes:
    matrices = placed(rgb, shift)
    covered = owners(rgb.shape[:2], matrices, PX, FACE) > 0
    return accounts.sketch(np.where(covered[..., None], np.uint8(0), rgb), covered)


def copies(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """What people make of one photo."""
    picture, found = Image.fromarray(rgb), {"a bit": rgb.copy()}
    found["a bit"][0, 0, 0] ^= 1
    for quality in (95, 75, 50):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        found[f"JPEG {quality}"] = np.asarray(Image.open(file))
    found["half"] = np.asarray(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS))
    return found


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [render_page(i, faces=1, width=320)[0] for i in range(12)]


def test_copies_are_near_and_share_a_band(photos: list[np.ndarray]) -> None:
    for photo in photos:
        one = sketched(photo)
        assert len(one) == 4 * accounts.GRID**2
        for i, (name, copy) in enumerate(copies(photo).items()):
            other = sketched(copy, shift=0.02 * (i - 2))  # nor does the region lie where it did
            assert accounts.distances(one, [other])[0] <= accounts.NEAR, name
            assert any(a == b for a, b in zip(accounts.bands(one), accounts.bands(other), strict=True)), name


def test_other_photos_are_far(photos: list[np.ndarray]) -> None:
    sketches = [sketched(photo) for photo in photos]
    for i, one in enumerate(sketches):
        far = accounts.distances(one, sketches[:i] + sketches[i + 1 :])
        assert far.min() > accounts.NEAR


def test_nothing_hidden_is_in_it(photos: list[np.ndarray]) -> None:
    photo = photos[0]
    covered = owners(photo.shape[:2], placed(photo), PX, FACE) > 0
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
    assert sketched(np.where(covered[..., None], noise, photo)) == sketched(photo)


def test_where_nothing_is_visible_nothing_tells_photos_apart() -> None:
    blank, seen = bytes(4 * accounts.GRID**2), sketched(render_page(1, faces=1, width=320)[0])
    assert accounts.distances(blank, [blank, seen]).tolist() == [0.0, np.inf]
    assert accounts.distances(blank, []).tolist() == []
    assert set(map(len, accounts.bands(blank))) == {-(-accounts.BITS // 8)}


def test_names_of_faces() -> None:
    assert accounts.names(None, 2) is None
    assert accounts.names("ann", 3) == ("ann", "ann", "ann")
    assert accounts.names("ann\tberta", 2) == ("ann", "berta")
    with pytest.raises(ProtectionFailed, match="expected 2 faces.*found 3"):
        accounts.names("ann\tberta", 3)
