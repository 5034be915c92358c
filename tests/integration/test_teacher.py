"""The landmark teacher on synthetic faces; left out where dlib is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anonymousnet.data.synthetic import render_face
from anonymousnet.errors import DataError, WeightsError
from anonymousnet.training import teacher

needs_dlib = pytest.mark.skipif(
    find_spec("dlib") is None or find_spec("face_recognition_models") is None, reason="needs anonymousnet[judge]"
)


@needs_dlib
def test_labels_are_right_and_a_second_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    truth = {}
    for seed in range(1, 5):
        face = render_face(seed, 178)
        truth[f"img_align_celeba/{seed}.jpg"] = face.landmarks_68
        Image.fromarray(face.image).save(folder / f"{seed}.jpg", quality=95)
    Image.new("RGB", (100, 100)).save(folder / "5.jpg")
    (folder / "6.jpg").write_bytes(b"no picture")
    out = tmp_path / "labels.npz"
    teacher.main([str(tmp_path), str(out)])
    (folder / "7.jpg").write_bytes((folder / "1.jpg").read_bytes())
    monkeypatch.setattr(teacher, "SAVE_EVERY", 1)
    teacher.main([str(tmp_path), str(out)])
    with np.load(out) as file:
        table = dict(file)
    assert sorted(table["name"].tolist()) == [f"img_align_celeba/{i}.jpg" for i in range(1, 8)]
    rows = dict(zip(table["name"].tolist(), range(7), strict=True))
    for name, points in truth.items():
        eyes = np.hypot(*(points[36:42].mean(0) - points[42:48].mean(0)))
        error = np.hypot(*(table["landmarks_N682"][rows[name]] - points).T).mean() / eyes
        assert error < 0.25, name
    for name in ("img_align_celeba/5.jpg", "img_align_celeba/6.jpg"):
        assert np.isnan(table["landmarks_N682"][rows[name]]).all()
        assert np.isnan(table["spread_N"][rows[name]])
    assert np.array_equal(
        table["box_N4"][rows["img_align_celeba/7.jpg"]], table["box_N4"][rows["img_align_celeba/1.jpg"]]
    )


@needs_dlib
def test_the_teachers_own_detector_places_the_square_if_it_sees_the_same_face(monkeypatch: pytest.MonkeyPatch) -> None:
    import dlib

    found: list[dlib.rectangle] = []

    class Finder:
        def run(self, shown: np.ndarray, upsample: int, threshold: float) -> tuple[list[dlib.rectangle]]:
            assert shown.shape[0] == pytest.approx(2 * teacher.SHOWN_AT, abs=2)
            return (found,)

    labeller = teacher.Teacher()
    monkeypatch.setattr(labeller, "_detector", Finder())
    rgb, box = np.zeros((400, 600, 3), np.uint8), np.array([250, 150, 350, 250], np.float32)
    usual = labeller.square(rgb, box)
    side = 100 * teacher.SIDE
    middle = np.array([300, 200 + 100 * teacher.DOWN])
    assert usual == pytest.approx([*(middle - side / 2), *(middle + side / 2)])
    centre = teacher.SHOWN_AT
    found.append(dlib.rectangle(centre - 60, centre - 50, centre + 59, centre + 69))  # 10 px lower
    zoom = teacher.SHOWN_AT / 100
    square = labeller.square(rgb, box)
    assert square[2] - square[0] == pytest.approx(120 / zoom)
    assert (square[:2] + square[2:]) / 2 == pytest.approx(middle + np.array([0, 10 / zoom]), abs=1)
    found[0] = dlib.rectangle(0, 0, 60, 60)  # somebody beside
    assert labeller.square(rgb, box) == pytest.approx(usual)


def test_an_empty_folder_and_a_missing_teacher_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="found none"):
        teacher.label(tmp_path, tmp_path / "out.npz")
    monkeypatch.setattr(teacher, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="anonymousnet\\[judge\\]"):
        teacher._predictor()


def test_the_command_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        teacher.main([str(tmp_path), str(tmp_path / "out.npz")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: expected photos in")
