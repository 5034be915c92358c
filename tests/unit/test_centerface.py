"""The detector in torch: OpenVINO's answers, and a gradient that makes it miss faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from anonymousnet.align.detect import SMALL, Detector
from anonymousnet.config import AlignConfig
from anonymousnet.data.synthetic import render_face
from anonymousnet.errors import WeightsError
from anonymousnet.nets import centerface
from anonymousnet.nets.centerface import CenterFace, Node
from anonymousnet.training.targets import DetectorTarget, fooled
from anonymousnet.training.universal import Plan, solve

THRESHOLD = AlignConfig().detector_threshold


@pytest.fixture(scope="module")
def net() -> CenterFace:
    return CenterFace()


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """Six synthetic faces, (6, 3, 128, 128) in [-1, 1]."""
    pixels = np.stack([render_face(seed, 128).image for seed in range(6)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def target(net: CenterFace) -> DetectorTarget:
    return DetectorTarget(lambda x: net((x + 1) * 127.5)[0], SMALL, THRESHOLD)


@pytest.mark.parametrize("shape", [(1, 3, 192, 192), (2, 3, 64, 96)])
def test_it_answers_as_openvino_does(net: CenterFace, shape: tuple[int, ...]) -> None:
    rgb = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    expected = Detector(AlignConfig()).network(rgb)
    heat, *others = net(torch.from_numpy(rgb))
    for found, answer in zip([heat.sigmoid(), *others], expected, strict=True):
        assert found.shape == answer.shape
        assert float((found - torch.from_numpy(answer)).abs().max()) < 1e-4


def test_the_target_agrees_with_the_detector_on_which_faces_are_seen(target: DetectorTarget, faces: Tensor) -> None:
    detector = Detector(AlignConfig())
    some = torch.cat([faces, torch.zeros(1, 3, 128, 128), faces[:2] * 0.02])
    pixels = ((some + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    missed = fooled(target.margins(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, some), target.need)
    assert missed.tolist() == [not detector(picture) for picture in pixels]
    assert missed.tolist()[:7] == [False] * 6 + [True]


def test_a_perturbation_hides_faces_from_the_real_detector(target: DetectorTarget, faces: Tensor) -> None:
    plan = Plan(24 / 255, epochs=8, batch=3)
    v = solve(faces, [target], plan).v * plan.bound
    pixels = (((faces + v).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    detector = Detector(AlignConfig())
    assert sum(not detector(picture) for picture in pixels) >= 4


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(WeightsError, match="found Softmax"):
        centerface._layer(Node("Softmax", ["1"], "2", {}), {})
