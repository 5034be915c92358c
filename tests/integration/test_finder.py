"""Every face: turned, small, half transparent, in huge photos; merged, covered, and looked for again in the release."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as pictures

from anonymousnet.align.coverage import LEAST, coverage, painted_share, patch
from anonymousnet.align.detect import Detection
from anonymousnet.align.finder import Face, Finder, from_box, views
from anonymousnet.align.looks import SHARED, TILE, Proposer, _tiles
from anonymousnet.align.region import FACE, HEAD
from anonymousnet.align.warp import TEMPLATE_52, owners, similarity
from anonymousnet.anonymizer import Release
from anonymousnet.config import Config
from anonymousnet.data.images import Photo, load_photo
from anonymousnet.device import Runner
from anonymousnet.encode import GREY, encode_release
from anonymousnet.errors import UnpaintedFace
from anonymousnet.training.detector_scores import turned

FAULTS = Path(__file__).resolve().parents[1] / "data" / "faults"
PX = 128


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder(Config().align, Runner("cpu"))


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """The head alone: 300 x 300 pixels, a face of about 110."""
    return np.ascontiguousarray(pictures.astronaut()[0:300, 70:370])


@pytest.fixture(scope="module")
def five(finder: Finder, astronaut: np.ndarray) -> np.ndarray:
    """The astronaut's eyes, nose and mouth corners."""
    return finder(opaque(astronaut), FACE, PX)[0].detection.points_52.astype(np.float64)


def opaque(rgb: np.ndarray) -> Photo:
    return Photo(rgb, None, "PNG")


def mask(faces: list[Face], rgb: np.ndarray) -> np.ndarray:
    matrices = np.array([face.matrix_23 for face in faces]).reshape(-1, 2, 3)
    return owners(rgb.shape[:2], matrices, PX, FACE) > 0


def open_points(faces: list[Face], rgb: np.ndarray, points_52: np.ndarray) -> int:
    """How many of five points are not painted."""
    x, y = np.floor(points_52).astype(int).T
    return int((~mask(faces, rgb)[y, x]).sum())


@pytest.mark.parametrize("degrees", [45, 90, 135, 180, 255, 270, 330])
def test_a_turned_face_is_painted_whole_and_in_its_own_orientation(
    finder: Finder, astronaut: np.ndarray, five: np.ndarray, degrees: int
) -> None:
    rgb, points = turned(astronaut, five, degrees)
    faces = finder(opaque(rgb), FACE, PX)
    assert open_points(faces, rgb, points) == 0
    face = min(faces, key=lambda face: float(np.abs(face.detection.points_52.mean(0) - points.mean(0)).sum()))
    assert coverage(face.detection, face.matrix_23, FACE, PX) >= LEAST
    angle = np.degrees(-np.arctan2(face.matrix_23[1, 0], face.matrix_23[0, 0]))
    assert abs((angle - degrees + 180) % 360 - 180) < 25


def test_the_file_of_a_face_turned_by_255_degrees(finder: Finder) -> None:
    photo = load_photo(FAULTS / "turned_255.jpg")
    faces = finder(photo, FACE, PX)
    assert faces
    assert mask(faces, photo.rgb).sum() > 9000  # today's stamp over the nose had 730 pixels


def test_the_file_of_two_people_one_upside_down(finder: Finder) -> None:
    photo = load_photo(FAULTS / "one_upright_one_turned_180_sunglasses.jpg")
    faces = finder(photo, FACE, PX)
    turns = [np.degrees(np.arctan2(face.matrix_23[1, 0], face.matrix_23[0, 0])) for face in faces]
    assert any(abs(turn) < 40 for turn in turns)
    assert any(abs(turn) > 140 for turn in turns)


def test_the_file_of_a_face_in_the_alpha_channel(finder: Finder) -> None:
    photo = load_photo(FAULTS / "face_in_alpha.png")
    middle = photo.rgb.shape[1] / 2
    found = finder(photo, FACE, PX)
    assert {face.detection.points_52[2, 0] > middle for face in found} == {False, True}
    painted = mask(found, photo.rgb)
    assert finder.unpainted(Photo(np.where(painted[..., None], np.uint8(128), photo.rgb),
                                  np.where(painted, np.uint8(255), photo.alpha), "PNG"), painted) == []  # fmt: skip


def test_what_a_viewer_sees_of_an_opaque_photo_is_its_colours(astronaut: np.ndarray) -> None:
    assert len(views(opaque(astronaut))) == 1
    assert len(views(Photo(astronaut, np.full(astronaut.shape[:2], 255, np.uint8), "PNG"))) == 1
    white, black, bare = views(Photo(astronaut, np.zeros(astronaut.shape[:2], np.uint8), "PNG"))
    assert (white == 255).all()
    assert (black == 0).all()
    assert bare is astronaut


def test_small_faces_of_a_large_photo_in_bounded_memory(finder: Finder, astronaut: np.ndarray) -> None:
    """4,000 x 1,500 pixels: faces of 16, 24 and 60 px, one of them upside down, at a tile's border and elsewhere."""
    rgb = np.full((1500, 4000, 3), (120, 130, 140), np.uint8)
    image, places = Image.fromarray(rgb), []
    for side, x, y, turn in ((16, 880, 300, 0), (24, 2000, 900, 0), (60, 3300, 400, 180), (32, 930, 1200, 90)):
        scale = side / 135
        small = Image.fromarray(astronaut).resize((round(300 * scale),) * 2, Image.Resampling.LANCZOS).rotate(-turn)
        image.paste(small, (x, y))
        places.append((x + small.width / 2, y + small.height / 2, side))
    rgb = np.asarray(image)
    tracemalloc.start()
    faces = finder(opaque(rgb), FACE, PX)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * rgb.nbytes
    for x, y, side in places:
        near = [f for f in faces if np.abs(f.detection.points_52.mean(0) - (x, y)).max() < side]
        assert near, (x, y, side)


@pytest.mark.parametrize("shape", [(3000, 20_000, 3), (1025, 3, 3), (1024, 1024, 3), (5000, 1100, 3)])
def test_tiles_cover_a_picture_and_overlap(shape: tuple[int, int, int]) -> None:
    corners = list(_tiles(shape))
    seen = np.zeros((-(-shape[0] // 8) + 1, -(-shape[1] // 8) + 1), bool)
    for y, x in corners:
        assert 0 <= y <= max(0, shape[0] - TILE)
        assert 0 <= x <= max(0, shape[1] - TILE)
        seen[y // 8 : -(-min(y + TILE, shape[0]) // 8), x // 8 : -(-min(x + TILE, shape[1]) // 8)] = True
    assert seen[: -(-shape[0] // 8), : -(-shape[1] // 8)].all()
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in corners})
        assert all(b - a <= TILE - SHARED for a, b in pairwise(starts))


def test_proposals_come_back_into_the_photo(astronaut: np.ndarray, five: np.ndarray) -> None:
    proposer = Proposer(Config().align, Runner("cpu").dtype)
    for degrees in (90, 180, 270):
        rgb, points = turned(np.ascontiguousarray(astronaut[:, 20:]), five - (20, 0), degrees)
        best = max(proposer.whole(rgb, 0.3, (1, 2, 3)), key=lambda seen: seen.score)
        assert best.turn == degrees
        assert np.abs(best.points_52 - points).max() < 8


def test_several_looks_at_one_face_are_one_face(finder: Finder, astronaut: np.ndarray) -> None:
    assert len(finder(opaque(astronaut), FACE, PX)) == 1
    both = np.concatenate([astronaut, np.rot90(astronaut, 2)], 1)
    faces = finder(opaque(both), FACE, PX)
    assert len(faces) == 2
    assert faces[0].detection.points_52[:, 0].mean() < 300 < faces[1].detection.points_52[:, 0].mean()


def test_fast_looks_once_and_misses_what_is_turned(astronaut: np.ndarray) -> None:
    config = Config.load(overrides=["align.looks=fast"])
    both = np.concatenate([astronaut, np.rot90(astronaut, 2)], 1)
    faces = Finder(config.align, Runner("cpu"))(opaque(both), FACE, PX)
    assert len([face for face in faces if face.detection.turn == 0]) == len(faces)


def test_coverage_of_a_face_by_its_own_box_and_by_a_stamp() -> None:
    box = np.array([100, 100, 150, 165], np.float32)
    points = ((TEMPLATE_52 - 0.5) * 100 + (125, 125)).astype(np.float32)
    for turn in (0.0, 37.0, 180.0):
        seen = Detection(box, 0.9, points, turn)
        matrix = from_box(seen, PX)
        assert coverage(seen, matrix, FACE, PX) > 0.9
        assert coverage(seen, matrix, HEAD, PX) == 1
        stamp = matrix * 4
        stamp[:, 2] -= 3 * PX / 2
        assert coverage(seen, stamp, FACE, PX) < 0.3
        painted = owners((300, 300), matrix[None], PX, FACE) > 0
        assert painted_share(seen, painted) > 0.9
        assert painted_share(seen, np.zeros((300, 300), bool)) == 0
        assert painted_share(seen, patch(seen, (300, 300))) == 1
    upright = similarity(points[None], PX)[0]
    assert np.abs(from_box(Detection(box, 0.9, points), PX)[:, :2] - upright[:, :2]).max() < 0.4
    outside = Detection(box - 1000, 0.9, points)
    assert painted_share(outside, np.zeros((300, 300), bool)) == 1
    assert not patch(outside, (300, 300)).any()


def test_an_unpainted_face_withholds_the_release_or_is_covered(finder: Finder, astronaut: np.ndarray) -> None:
    both = np.concatenate([astronaut, np.rot90(astronaut, 2)], 1)
    faces = finder(opaque(both), FACE, PX)
    released = np.where(mask(faces[:1], both)[..., None], np.uint8(128), both)  # the second is left as it is
    release, painted = Release(Photo(released, None, "JPEG"), ()), mask(faces[:1], both)
    with pytest.raises(UnpaintedFace, match=r"leave it out, or set align.unpainted=cover"):
        encode_release(release, painted, finder, Config())
    data, suffix, shown = encode_release(release, painted, finder, Config.load(overrides=["align.unpainted=cover"]))
    assert suffix == ".jpg"
    grey = np.abs(load_photo(data).rgb.astype(int) - GREY).max(2) < 6
    assert grey[:, 300:].mean() > 0.05
    assert open_points(faces[1:], both, faces[1].detection.points_52) == 0
    x, y = np.floor(faces[1].detection.points_52).astype(int).T
    assert (shown.image.rgb[y, x] == GREY).all()


def test_a_photo_without_faces_passes(finder: Finder) -> None:
    plain = np.full((200, 300, 3), 90, np.uint8)
    assert finder(opaque(plain), FACE, PX) == []
    assert encode_release(Release(opaque(plain), ()), np.zeros((200, 300), bool), finder, Config())[1] == ".png"
