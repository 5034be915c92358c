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


def test_an_empty_folder_and_a_missing_teacher_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="found none"):
        teacher.label(tmp_path, tmp_path / "out.npz")
    monkeypatch.setattr(teacher, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="anonymousnet\\[judge\\]"):
        teacher._predictor()
