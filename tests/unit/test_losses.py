"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from anonymousnet.training import losses


def test_attribute_loss_of_a_coin_is_ln_2() -> None:
    loss, parts = losses.attribute_loss(torch.zeros(3, 40), torch.ones(3, 40))
    assert float(loss) == pytest.approx(math.log(2))
    assert float(parts["accuracy"]) == 0


def test_attribute_weights_leave_attributes_out() -> None:
    logits = torch.tensor([[9.0, -9.0]])
    loss, _ = losses.attribute_loss(logits, torch.tensor([[1.0, 1.0]]), torch.tensor([1.0, 0.0]))
    assert float(loss) < 1e-3


def test_arcface_without_margin_is_a_scaled_cosine_softmax() -> None:
    centres = torch.eye(3)
    loss, parts = losses.arcface_loss(losses.cosines(centres[:2], centres), torch.tensor([0, 1]), margin=0.0, scale=2.0)
    assert float(loss) == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-4)
    assert float(parts["train_rank1"]) == 1


def test_a_margin_makes_arcface_harder_and_does_not_care_for_length() -> None:
    torch.manual_seed(0)
    x, centres, who = torch.randn(8, 5), torch.randn(4, 5), torch.arange(8) % 4
    plain, _ = losses.arcface_loss(losses.cosines(x, centres), who, 0.0, 8.0)
    hard, _ = losses.arcface_loss(losses.cosines(x, centres), who, 0.3, 8.0)
    longer, _ = losses.arcface_loss(losses.cosines(7 * x, centres), who, 0.3, 8.0)
    assert float(hard) > float(plain)
    assert float(longer) == pytest.approx(float(hard), rel=1e-5)


def test_an_undecided_critic_costs_2_ln_2_and_its_generator_ln_2() -> None:
    assert float(losses.critic_loss(torch.zeros(4), torch.zeros(4))[0]) == pytest.approx(2 * math.log(2))
    assert float(losses.generator_loss(torch.zeros(4))[0]) == pytest.approx(math.log(2))


def test_r1_of_a_linear_critic_is_its_squared_norm() -> None:
    faces = torch.randn(4, 3, 8, 8, requires_grad=True)
    weight = torch.full((3, 8, 8), 0.1)
    assert float(losses.r1_penalty((faces * weight).sum((1, 2, 3)), faces)) == pytest.approx(192 * 0.01, rel=1e-4)


def test_the_wgan_penalty_is_zero_at_norm_one() -> None:
    faces = torch.randn(4, 3, 8, 8, requires_grad=True)
    weight = torch.full((3, 8, 8), 1 / math.sqrt(192))
    assert float(losses.gradient_penalty((faces * weight).sum((1, 2, 3)), faces)) == pytest.approx(0, abs=1e-6)


def test_a_pair_at_the_threshold_costs_ln_2_and_one_that_does_not_count_nothing() -> None:
    at, counts = torch.tensor([0.3, 0.3]), torch.tensor([1.0, 0.0])
    for same in (True, False):
        assert float(losses.verification_loss(at, same, 0.3, counts)) == pytest.approx(math.log(2) / 2)
    above, both = torch.tensor([0.9, 0.9]), torch.ones(2)
    assert float(losses.verification_loss(above, True, 0.3, both)) < 0.01
    assert float(losses.verification_loss(above, False, 0.3, both)) == pytest.approx(6, abs=0.01)


def test_tone_is_the_colour_of_quarters_and_no_detail() -> None:
    grey, weight = torch.zeros(1, 3, 16, 16), torch.ones(1, 16, 16)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
    assert float(losses.tone_distance(grey + board, grey, weight)) == pytest.approx(0)
    lit = grey.clone()
    lit[..., :8] = 0.5  # light from the left
    assert float(losses.tone_distance(lit, grey, weight)) == pytest.approx(0.25)
    half = weight.clone()
    half[:, 8:] = 0
    assert float(losses.tone_distance(lit, grey, half)) == pytest.approx(0.25)  # the region's share alone


def test_region_l1_looks_inside_the_weight_only() -> None:
    a, b, weight = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), torch.zeros(1, 16, 16)
    weight[:, :8] = 1
    fine, coarse = losses.region_l1(a, b, weight, 8)
    assert float(fine) == float(coarse) == pytest.approx(1)
    b[:, :, :8] = 0
    assert float(losses.region_l1(a, b, weight, 8)[0]) == 0


def test_shape_distance_ignores_a_change_of_overall_colour() -> None:
    a, weight = torch.rand(2, 3, 16, 16), torch.ones(1, 16, 16)
    assert float(losses.shape_distance(a, a + 0.3, weight)) == pytest.approx(0, abs=1e-6)
    assert float(losses.shape_distance(a, a.flip(3), weight)) > 0.02


def test_code_loss_runs_from_0_to_2() -> None:
    code = torch.randn(4, 64)
    assert float(losses.code_loss(3 * code, code)[0]) == pytest.approx(0, abs=1e-5)
    assert float(losses.code_loss(-code, code)[0]) == pytest.approx(2, abs=1e-5)
