"""The landmark network: its geometry by hand-made cases, its learning on synthetic faces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anonymousnet.align.warp import TEMPLATE_52
from anonymousnet.nets.dan import (
    DAN,
    DANConfig,
    fit_similarity,
    five_from_68,
    heatmap,
    invert,
    landmark_loss,
    mean_shape,
    transform,
    warp,
)
from anonymousnet.training.data import FaceTable

SMALL = DANConfig(px=32, width=4)


def turned(angle: float, scale: float, x: float, y: float) -> torch.Tensor:
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[[a, -b, x], [b, a, y]]])


def test_one_answer_per_stage_starting_at_the_mean_shape() -> None:
    net = DAN(DANConfig(px=32, width=4, stages=3)).eval()
    with torch.no_grad():
        answers = net(torch.rand(2, 3, 32, 32) * 2 - 1)
    assert [tuple(a.shape) for a in answers] == [(2, 68, 2)] * 3
    for answer in answers:
        assert float((answer - mean_shape() * 32).abs().max()) < 1
    assert float(landmark_loss(answers[-1], (mean_shape() * 32).expand(2, 68, 2))) < 0.05


def test_similarities_fit_invert_and_move_points() -> None:
    points = torch.rand(1, 68, 2) * 100
    matrix = turned(0.4, 1.3, 5, -8)
    moved = transform(matrix, points)
    torch.testing.assert_close(fit_similarity(points, moved), matrix, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(transform(invert(matrix), moved), points, atol=1e-3, rtol=1e-4)


def test_warp_moves_the_picture_as_transform_moves_points() -> None:
    spot = torch.tensor([[[20.0, 12.0]]])
    image = heatmap(spot, 32)
    matrix = turned(0.5, 0.8, 4, 3)
    there = transform(matrix, spot)
    row, column = np.unravel_index(int(warp(image, matrix).argmax()), (32, 32))
    assert np.hypot(column + 0.5 - there[0, 0, 0], row + 0.5 - there[0, 0, 1]) < 1


def test_heatmap_is_one_over_one_plus_distance() -> None:
    points = torch.tensor([[[8.5, 4.5], [20.5, 30.5]]])
    drawn = heatmap(points, 32)[0, 0]
    y, x = np.mgrid[0:32, 0:32] + 0.5
    nearest = np.min([np.hypot(x - 8.5, y - 4.5), np.hypot(x - 20.5, y - 30.5)], 0)
    np.testing.assert_allclose(drawn, 1 / (1 + nearest), atol=0.04)


def test_a_stage_is_taught_by_its_own_loss_alone() -> None:
    net = DAN(SMALL)
    target = (mean_shape() * 32 + torch.randn(68, 2)).expand(3, 68, 2)
    landmark_loss(net(torch.rand(3, 3, 32, 32) * 2 - 1)[-1], target).backward()  # type: ignore[no-untyped-call]
    first, last = (stage.correction.weight.grad for stage in (net.stages[0], net.stages[-1]))  # type: ignore[union-attr]
    assert first is None
    assert last is not None
    assert net.images[0].weight.grad is not None  # what the first stage saw is the second's to use


def test_gradients_reach_every_weight() -> None:
    net = DAN(SMALL)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    target = (mean_shape() * 32 + torch.randn(68, 2)).expand(3, 68, 2)
    torch.stack([landmark_loss(answer, target) for answer in net(images)]).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad != 0).any()), name


def test_brightness_and_contrast_change_nothing() -> None:
    net = DAN(SMALL).eval()
    torch.nn.init.normal_(net.stages[1].correction.weight, std=0.1)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(net(image)[-1], net(image * 0.6 - 0.3)[-1], atol=0.5, rtol=0)


def test_bf16_answers_as_float32_does() -> None:
    """Geometry in bf16 would be wrong by half a pixel."""
    net = DAN(DANConfig(px=112, width=4)).eval()
    for stage in net.stages:
        torch.nn.init.normal_(stage.correction.weight, std=0.2)
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        exact = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(images)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert float((a - net.mean_shape).abs().mean()) > 1
        assert float((a - b).abs().max()) < 0.15


def test_the_loss_is_the_mean_error_over_the_eyes_distance() -> None:
    target = (mean_shape() * 100).expand(2, 68, 2)
    eyes = five_from_68(target)[0]
    apart = float((eyes[0] - eyes[1]).norm())
    assert float(landmark_loss(target + torch.tensor([3.0, 4.0]), target)) == pytest.approx(5 / apart, rel=1e-5)
    assert float(landmark_loss(target * 0, target * 0)) == 0  # eyes in one point: still a number


def test_five_of_the_mean_shape_lie_where_the_detector_puts_them() -> None:
    five = five_from_68(mean_shape()).numpy()
    np.testing.assert_allclose(five, TEMPLATE_52, atol=2.5 / 178)
    np.testing.assert_allclose(five[0] * (-1, 1) + (1, 0), five[1], atol=1e-3)  # symmetric


def test_it_learns_synthetic_faces(synthetic: FaceTable) -> None:
    """30 small steps: the answer must beat the mean shape, the second stage at least equal the first."""
    images = torch.from_numpy(synthetic.faces_N3HW[:32].astype(np.float32)) / 127.5 - 1
    images = torch.nn.functional.interpolate(images, size=32, mode="area")
    assert synthetic.landmarks_N682 is not None
    target = torch.from_numpy(synthetic.landmarks_N682[:32]).float() / 2
    net = DAN(SMALL)
    before = float(landmark_loss(net.mean_shape.expand_as(target), target))
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.stack([landmark_loss(answer, target) for answer in net(images)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    first, second = (landmark_loss(answer, target).item() for answer in net(images))
    assert second < 0.8 * before
    assert second < 1.1 * first
