"""Photo to crops and back: what is hidden stays hidden, and what is not stays as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anonymousnet.align.region import FACE, HIDDEN, REGIONS, Region
from anonymousnet.align.warp import FADE, TEMPLATE_52, crop_context, crop_faces, owners, paste, similarity
from anonymousnet.data.images import Blocks
from anonymousnet.errors import ProtectionFailed

PX = 64


def placed(size: float, angle: float, x: float, y: float) -> np.ndarray:
    """(5, 2): the template's points for a crop of `size` photo pixels a side, turned, centred at x, y."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return ((TEMPLATE_52 - 0.5) * size) @ turn + (x, y)


def noise(seed: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def hidden(shape: tuple[int, int], matrices: np.ndarray, px: int, area: Region) -> np.ndarray:
    return owners(shape, matrices, px, area) > 0


def painted(seed: int, n: int) -> torch.Tensor:
    return torch.rand(n, 3, PX, PX, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@given(st.floats(8, 5000), st.floats(-math.pi, math.pi), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_similarity_recovers_what_was_placed(size: float, angle: float, x: float, y: float) -> None:
    points = placed(size, angle, x, y)
    matrix = similarity(points[None], PX)[0]
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE_52 * PX, atol=1e-6 * PX)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_similarity_is_the_least_squares_answer() -> None:
    points = placed(100, 0.3, 50, 60) + np.random.default_rng(0).normal(size=(5, 2)) * 3
    a, b, c, d = similarity(points[None], PX)[0][[0, 1, 0, 1], [0, 0, 2, 2]]
    # The same problem as plain linear equations in (a, b, c, d); the nose has no say.
    x, y = points[[0, 1, 3, 4]].T
    one, zero = np.ones(4), np.zeros(4)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    expected = np.linalg.lstsq(system, (TEMPLATE_52[[0, 1, 3, 4]] * PX).T.ravel(), rcond=None)[0]
    np.testing.assert_allclose([a, b, c, d], expected, rtol=1e-9)


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 7.0),
        np.full((5, 2), np.nan),
        TEMPLATE_52 * (-100, 100),  # a mirror image: no rotation makes a face of it
        np.where(np.arange(5)[:, None] == 1, np.inf, TEMPLATE_52),
    ],
)
def test_points_that_are_no_face_fail_closed(points: np.ndarray) -> None:
    with pytest.raises(ProtectionFailed, match="face 1"):
        similarity(np.stack([placed(100, 0, 50, 50), points]), PX)


def test_an_aligned_image_is_cropped_as_training_crops_it() -> None:
    from PIL import Image

    from anonymousnet.data.celeba import centre_crop

    small = Image.fromarray(noise(0, 28, 23))
    image = small.resize((178, 218), Image.Resampling.BICUBIC)
    matrix = similarity((TEMPLATE_52 * 178 + (0, 20))[None], PX)
    ours = (crop_faces(np.asarray(image), matrix, PX)[0] + 1) * 127.5
    np.testing.assert_allclose(ours, centre_crop(image, PX), atol=10)
    assert np.abs(ours.numpy() - centre_crop(image, PX)).mean() < 1.5  # a shift by half a pixel gives 20


def test_no_face_is_no_change() -> None:
    rgb, none = noise(0, 20, 30), np.zeros((0, 2, 3))
    mask = hidden(rgb.shape[:2], none, PX, FACE)
    assert not mask.any()
    assert crop_faces(rgb, none, PX).shape == crop_context(rgb, mask, none, PX, FACE)[0].shape == (0, 3, PX, PX)
    assert np.array_equal(paste(rgb, mask, torch.zeros(0, 3, PX, PX), none, FACE), rgb)


@pytest.mark.parametrize("area", REGIONS.values(), ids=REGIONS)
@settings(max_examples=30, deadline=None)
@given(st.floats(6, 400), st.floats(-3, 3), st.floats(-20, 140), st.floats(-20, 120))
def test_every_point_of_the_region_is_hidden(area: Region, size: float, angle: float, x: float, y: float) -> None:
    matrices = similarity(placed(size, angle, x, y)[None], PX)
    mask = hidden((100, 120), matrices, PX, area)
    xy = np.random.default_rng(0).random((20_000, 2)) * (120, 100)
    uv = (xy @ matrices[0, :, :2].T + matrices[0, :, 2]) / PX
    inside = xy[area.level(uv[:, 0], uv[:, 1]) <= HIDDEN].astype(int)
    assert mask[inside[:, 1], inside[:, 0]].all()


FACES = {
    "one": [placed(60, 0.2, 60, 50)],
    "large": [placed(300, -0.4, 60, 50)],
    "small": [placed(9, 1.0, 60.3, 50.7)],
    "at the border": [placed(70, 0.1, 2, 3), placed(50, 0, 118, 60)],
    "outside": [placed(30, 0, -60, -80)],
    "overlapping": [placed(60, 0.2, 50, 50), placed(70, -0.2, 75, 55)],
    "large over small": [placed(20, 0.2, 50, 50), placed(160, -0.2, 60, 55)],
}


@pytest.mark.parametrize("area", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("name", FACES)
def test_hidden_pixels_change_nothing(name: str, area: Region) -> None:
    """The byte-identity that the privacy guarantee rests on."""
    matrices = similarity(np.stack(FACES[name]), PX)
    rgb = noise(1, 100, 120)
    mask = hidden(rgb.shape[:2], matrices, PX, area)
    faces = painted(2, len(matrices))
    context, region = crop_context(rgb, mask, matrices, PX, area)
    released = paste(rgb, mask, faces, matrices, area)
    for other in (noise(3, 100, 120), np.zeros_like(rgb), np.full_like(rgb, 255)):
        swapped = np.where(mask[..., None], other, rgb)
        again, _ = crop_context(swapped, mask, matrices, PX, area)
        assert again.numpy().tobytes() == context.numpy().tobytes()
        assert paste(swapped, mask, faces, matrices, area).tobytes() == released.tobytes()
    assert bool((context * region == 0).all())
    assert float(context.abs().max()) <= 1


@pytest.mark.parametrize("area", REGIONS.values(), ids=REGIONS)
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(4, 200), st.floats(-3, 3), st.floats(-9, 99), st.floats(-9, 79)), min_size=1, max_size=3
    ),
    st.randoms(use_true_random=False),
)
def test_hidden_pixels_change_nothing_wherever_the_faces_are(area: Region, places: list, random: object) -> None:
    matrices = similarity(np.stack([placed(*place) for place in places]), PX)
    rgb = noise(1, 70, 90)
    mask = hidden(rgb.shape[:2], matrices, PX, area)
    order = list(range(len(places)))
    random.shuffle(order)  # type: ignore[attr-defined]
    swapped = np.where(mask[..., None], noise(4, 70, 90), rgb)
    faces = painted(0, len(places))
    assert torch.equal(
        crop_context(rgb, mask, matrices, PX, area)[0], crop_context(swapped, mask, matrices, PX, area)[0]
    )
    released = paste(rgb, mask, faces, matrices, area, order)
    assert np.array_equal(released, paste(swapped, mask, faces, matrices, area, order))


@pytest.mark.parametrize("area", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("name", FACES)
def test_beyond_the_fade_every_byte_is_the_photos_own(name: str, area: Region) -> None:
    matrices = similarity(np.stack(FACES[name]), PX)
    rgb = noise(1, 100, 120)
    mask = hidden(rgb.shape[:2], matrices, PX, area)
    released = paste(rgb, mask, painted(2, len(matrices)), matrices, area)
    x, y = np.meshgrid(np.arange(120) + 0.5, np.arange(100) + 0.5)
    near = np.zeros_like(mask)
    for matrix in matrices:
        u, v = (np.stack([x, y], -1) @ matrix[:, :2].T + matrix[:, 2]).transpose(2, 0, 1) / PX
        diagonal = 0.5**0.5 * np.hypot(*matrix[:, 0]) / PX / min(area.radii)
        near |= area.level(u, v) <= 1 + FADE + diagonal
    assert np.array_equal(released[~near], rgb[~near])


def test_the_later_face_covers_the_earlier() -> None:
    matrices = similarity(np.stack(FACES["overlapping"]), PX)
    rgb = noise(1, 100, 120)
    mask = hidden(rgb.shape[:2], matrices, PX, FACE)
    faces = torch.stack([torch.full((3, PX, PX), -1.0), torch.full((3, PX, PX), 1.0)])
    u, v = (
        (np.indices((100, 120))[::-1].transpose(1, 2, 0) + 0.5) @ matrices[:, None, :, :2].mT
        + matrices[:, None, None, :, 2]
    ).transpose(3, 0, 1, 2) / PX
    both = (FACE.level(u, v) <= 1).all(0)
    assert both.any()
    assert (paste(rgb, mask, faces, matrices, FACE)[both] == 255).all()
    assert (paste(rgb, mask, faces, matrices, FACE, [1, 0])[both] == 0).all()


@pytest.mark.parametrize("area", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("size", [25.0, 64.0, 250.0])
def test_crop_and_paste_return_a_smooth_photo(size: float, area: Region) -> None:
    y, x = np.mgrid[0:200, 0:240]
    rgb = np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)
    matrices = similarity(placed(size, 0.3, 120, 100)[None], PX)
    mask = hidden((200, 240), matrices, PX, area)
    released = paste(rgb, mask, crop_faces(rgb, matrices, PX), matrices, area)
    off = np.abs(released.astype(int) - rgb).max(2)
    u, v = ((np.stack([x, y], -1) + 0.5) @ matrices[0, :, :2].T + matrices[0, :, 2]).transpose(2, 0, 1) / PX
    assert off[area.level(u, v) <= 1].max() <= 2
    assert off[~mask].max(initial=0) <= 4
    assert off.max() <= 0.08 * size + 2  # the fill under the fade is a blur of what is around


def test_shrinking_does_not_alias() -> None:
    """A checkerboard of single pixels is grey from afar, whatever the ratio."""
    rgb = np.indices((700, 700)).sum(0)[..., None].repeat(3, 2) % 2 * np.uint8(255)
    for size in (330, 410, 640):
        crop = crop_faces(rgb, similarity(placed(size, 0.0, 350, 350)[None], PX), PX)
        assert float(crop.abs().max()) < 0.15


def test_context_outside_the_region_is_the_photo() -> None:
    y, x = np.mgrid[0:200, 0:240]
    rgb = np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)
    for size in (20, 150):  # the hidden rim beyond the crop's region is filled
        matrices = similarity(placed(size, 0.1, 120, 100)[None], PX)
        context, region = crop_context(rgb, hidden((200, 240), matrices, PX, FACE), matrices, PX, FACE)
        assert torch.equal(region[0], FACE.masks(PX)[0])
        error = ((context - crop_faces(rgb, matrices, PX)) * (1 - region)).abs()[0].amax(0)
        v, u = torch.meshgrid(*[(torch.arange(PX) + 0.5) / PX] * 2, indexing="ij")
        assert float(error[FACE.level(u, v) > HIDDEN + 0.1 + 3 / size].max()) < 0.01
        assert float(error.max()) < 0.04 + size / 1000


def test_paste_refuses_what_would_leave_a_face_showing() -> None:
    matrices = similarity(np.stack(FACES["overlapping"]), PX)
    rgb = noise(1, 100, 120)
    mask = hidden(rgb.shape[:2], matrices, PX, FACE)
    elsewhere = np.ones_like(mask)
    with pytest.raises(ProtectionFailed, match="lie near a painted face"):
        paste(rgb, elsewhere, painted(0, 2), similarity(np.stack(FACES["one"] + FACES["small"]), PX), FACE, [1])
    with pytest.raises(ProtectionFailed, match="finite"):
        paste(rgb, mask, painted(0, 2) * torch.nan, matrices, FACE)
    with pytest.raises(ProtectionFailed, match="expected 2"):
        paste(rgb, mask, painted(0, 1), matrices, FACE)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(6, 150), st.floats(-3, 3), st.floats(-9, 140), st.floats(-9, 110)), min_size=1, max_size=3
    ),
    st.sampled_from([(16, 16), (32, 16), (16, 8)]),
    st.integers(0, 15),
    st.integers(0, 15),
)
def test_whole_blocks_are_hidden_and_one_pixel_more(places: list, size: tuple[int, int], x: int, y: int) -> None:
    matrices = similarity(np.stack([placed(*place) for place in places]), PX)
    blocks = Blocks(size, (x, y))
    bare, whole = owners((100, 130), matrices, PX, FACE), owners((100, 130), matrices, PX, FACE, blocks)
    expected = np.zeros_like(whole, bool)
    for top in range(blocks.first[1], 100, size[1]):
        for left in range(blocks.first[0], 130, size[0]):
            block = (slice(max(top, 0), top + size[1]), slice(max(left, 0), left + size[0]))
            if bare[block].any():
                expected[max(top - 1, 0) : top + size[1] + 1, max(left - 1, 0) : left + size[0] + 1] = True
    assert np.array_equal(whole > 0, expected)
    assert set(np.unique(whole)) <= set(range(len(places) + 1))


def test_each_hidden_pixel_has_one_owner_and_no_other_face_is_read_with_it() -> None:
    matrices = similarity(np.stack(FACES["overlapping"]), PX)
    rgb = noise(1, 100, 120)
    owner = owners(rgb.shape[:2], matrices, PX, FACE, Blocks())
    faces = crop_faces(rgb, matrices, PX, owner)
    for i in (0, 1):
        swapped = np.where((owner == i + 1)[..., None], noise(2, 100, 120), rgb)
        again = crop_faces(swapped, matrices, PX, owner)
        assert torch.equal(again[1 - i], faces[1 - i])
        assert not torch.equal(again[i], faces[i])


@pytest.mark.parametrize("size", [20.0, 60.0, 400.0])
def test_a_hidden_rim_beyond_the_region_is_filled_from_around_it(size: float) -> None:
    y, x = np.mgrid[0:300, 0:340]
    rgb = np.stack([x, y, (x + y) / 2], -1).clip(0, 255).astype(np.uint8)
    matrices = similarity(placed(size, 0.3, 170, 150)[None], PX)
    owner = owners((300, 340), matrices, PX, FACE, Blocks())
    black = np.where(owner[..., None] > 0, 0, rgb).astype(np.uint8)
    released = paste(black, owner > 0, crop_faces(rgb, matrices, PX), matrices, FACE)
    assert np.abs(released.astype(int) - rgb).max() <= 0.08 * size + 6
