"""Landmarks place the crop: geometry with a network whose answer is known, and what happens when it strays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from anonymousnet import weights
from anonymousnet.align.detect import Detection, Detector
from anonymousnet.align.landmarks import Landmarker
from anonymousnet.align.warp import TEMPLATE_52, crop_faces, similarity
from anonymousnet.config import AlignConfig, Config
from anonymousnet.device import Runner
from anonymousnet.errors import DataError, WeightsError
from anonymousnet.nets.dan import DAN, DANConfig, five_from_68, mean_shape
from anonymousnet.training.scoring import score_weights

PX = 64


def landmarker(tmp_path: Path, shift: float = 0.0) -> Landmarker:
    """A network that answers the mean shape, `shift` of the crop to the right, whatever it sees."""
    net = DAN(DANConfig(px=32, width=4))
    with torch.no_grad():
        for stage in net.stages:
            assert isinstance(stage.correction, nn.Linear)
            stage.correction.weight.zero_()
        offset = torch.zeros(68, 2)
        offset[:, 0] = shift
        net.stages[0].correction.bias.copy_(offset.flatten())
    weights.write(tmp_path / "landmarks", "dan", net.config.model_dump(), net.state_dict(), {})
    return Landmarker(AlignConfig(landmarks=str(tmp_path / "landmarks")), Runner("cpu", "fp32"))


def detection(angle: float, size: float, x: float, y: float) -> Detection:
    """A detected face: the template turned, scaled and moved."""
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE_52 - 0.5) @ turn.T + (x, y)
    return Detection(np.array([x - size, y - size, x + size, y + size], np.float32), 1.0, points.astype(np.float32))


def test_landmarks_come_back_into_the_photo_and_place_the_crop(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    faces = [detection(0.0, 120, 130, 150), detection(0.4, 80, 300, 160)]
    matrices, found = landmarker(tmp_path).align(rgb, faces, PX)
    assert found is not None
    for face, matrix, points in zip(faces, matrices, found, strict=True):
        first = similarity(face.points_52[None], 32)[0]
        seen = points @ first[:, :2].T + first[:, 2]
        assert seen == pytest.approx(mean_shape().numpy() * 32, abs=0.02)
        # The crop is placed so that the mean shape lies where the mean shape lies in aligned faces.
        placed = five_from_68(torch.from_numpy(points)).numpy() @ matrix[:, :2].T + matrix[:, 2]
        assert placed[[0, 1, 3, 4]] == pytest.approx(five_from_68(mean_shape()).numpy()[[0, 1, 3, 4]] * PX, abs=0.05)
    assert crop_faces(rgb, matrices, PX).shape == (2, 3, PX, PX)


def test_a_network_that_strays_is_not_believed(tmp_path: Path) -> None:
    rgb = np.zeros((300, 400, 3), np.uint8)
    faces = [detection(0.1, 120, 200, 150)]
    matrices, found = landmarker(tmp_path, shift=0.3).align(rgb, faces, PX)
    assert found is not None
    assert matrices == pytest.approx(similarity(faces[0].points_52[None], PX))


def test_without_a_network_the_detector_places_the_crop(page: np.ndarray) -> None:
    config = AlignConfig(landmarks=None)
    faces = Detector(config)(page)
    matrices, found = Landmarker(config, Runner("cpu", "fp32")).align(page, faces, PX)
    assert found is None
    assert matrices == pytest.approx(similarity(np.stack([face.points_52 for face in faces]), PX))


def test_weights_of_another_kind_are_refused(page: np.ndarray) -> None:
    config = AlignConfig(landmarks="attributes")
    with pytest.raises(WeightsError, match="expected a dan"):
        Landmarker(config, Runner("cpu")).align(page, Detector(config)(page), PX)


def test_a_landmark_network_is_scored_against_the_teacher_on_detected_faces(tmp_path: Path, small_celeba: Path) -> None:
    net = landmarker(tmp_path)
    folder = small_celeba / "img_align_celeba"
    names = sorted(path.name for path in folder.iterdir())
    detector, answers = Detector(net.config), []
    for name in names:
        rgb = np.asarray(Image.open(folder / name))
        face = max(detector(rgb), key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
        found = net.align(rgb, [face], PX)[1]
        assert found is not None
        answers.append(found[0])
    truth = np.array(answers)
    eyes = np.linalg.norm(truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1), axis=1)
    truth[:, 48:] += [[[0.5, 0]]] * eyes[:, None, None]  # the mouth elsewhere, by half the eyes' distance
    spread = np.where(np.arange(len(names)) % 2, 0.01, 0.2)
    five = five_from_68(torch.from_numpy(truth)).numpy()  # the detector agrees with the teacher
    np.savez(
        small_celeba / "landmarks_68.npz", name=[f"img_align_celeba/{n}" for n in names], landmarks_N682=truth,
        points_N52=five, spread_N=spread,
    )  # fmt: skip
    name = str(tmp_path / "landmarks")
    found = score_weights(name, small_celeba, "train", Config.load(overrides=["precision=fp32"]))
    rows = {str(row["part"]): row["error"] for row in found.rows}
    assert rows["mouth"] == pytest.approx(0.5, abs=1e-3)
    assert rows["nose"] == pytest.approx(0, abs=1e-3)
    assert found.means["error"] == pytest.approx(0.5 * 20 / 68, abs=1e-3)
    assert found.means["failed"] == 1
    assert 0 < found.means["trusted_faces"] < found.means["faces"] == found.faces
    with pytest.raises(DataError, match="expected labelled faces"):
        score_weights(name, small_celeba, "wild", Config())
