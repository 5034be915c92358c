"""The universal perturbation: it stays in its ball, beats noise by far, resumes exactly, and scales."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from anonymousnet.errors import ConfigError, StageError
from anonymousnet.faces import FaceBatch
from anonymousnet.stages.perturb import Perturb
from anonymousnet.training import disturbances, fooling, universal
from anonymousnet.training.disturbances import Disturbance
from anonymousnet.training.targets import AttributeTarget, ClassTarget, EmbedderTarget, fooled, fooling_rates
from anonymousnet.training.universal import Plan

XI = 10 / 255


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of four classes: a soft blob in one of four quarters, over noise."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(4, (n,), generator=generator)
    pictures = torch.randn(n, 3, 32, 32, generator=generator) * 0.15
    for i, kind in enumerate(kinds.tolist()):
        y, x = 16 * (kind // 2), 16 * (kind % 2)
        pictures[i, :, y : y + 16, x : x + 16] += 0.06
    return pictures.clamp(-1, 1), kinds


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                        nn.Linear(512, 4))  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    pictures, kinds = blobs(256, 0)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(pictures), kinds)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    test, truth = blobs(200, 1)
    assert (net(test).argmax(1) == truth).float().mean() > 0.9
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("solver", ["sgd", "deepfool"])
def test_it_fools_unseen_pictures_far_beyond_noise(classifier: nn.Module, solver: universal.Solver) -> None:
    target, epochs = ClassTarget(classifier, top=3), 6 if solver == "sgd" else 2
    found = universal.solve(blobs(80, 2)[0], [target], Plan(XI, solver, epochs))
    unseen = blobs(200, 3)[0]
    (rate,) = fooling_rates(found.v * 2 * XI, unseen, [target])
    (noise,) = fooling_rates(fooling.noise_like(found.v * 2 * XI), unseen, [target])
    assert rate > 0.5
    assert rate > 4 * noise


@pytest.mark.parametrize("solver", ["sgd", "deepfool"])
def test_it_never_leaves_its_ball(classifier: nn.Module, solver: universal.Solver) -> None:
    found = universal.solve(blobs(40, 2)[0], [ClassTarget(classifier, 3)], Plan(XI, solver, 1))
    assert 0 < float(found.v.abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize("solver", ["sgd", "deepfool"])
def test_a_resumed_run_equals_an_uninterrupted_one(classifier: nn.Module, solver: universal.Solver) -> None:
    pictures, targets = blobs(40, 2)[0], [ClassTarget(classifier, 3)]

    def killed_after_one(epochs: Iterable[int]) -> Iterable[int]:
        return [epoch for epoch in epochs if epoch < 1]

    plan = Plan(XI, solver, 3, robust=True)
    whole = universal.solve(pictures, targets, plan)
    part = universal.solve(pictures, targets, plan, progress=killed_after_one)
    assert part.epochs == 1
    again = universal.solve(pictures, targets, plan, start=part)
    assert torch.equal(again.v, whole.v)
    assert again.history == whole.history


def test_the_curve_rises_with_epsilon_and_stands_beside_noise(classifier: nn.Module) -> None:
    targets = [ClassTarget(classifier, 3)]
    found = universal.solve(blobs(80, 2)[0], targets, Plan(XI, epochs=6))
    curve = fooling.fooling_curve(found.v, blobs(100, 3)[0], targets, [0.0, XI / 4, XI])
    rates = [row["fooled"][0] for row in curve]  # type: ignore[index]
    assert rates[0] == 0
    assert rates == sorted(rates)
    assert curve[-1]["noise"][0] < rates[-1]  # type: ignore[index]


def test_attribute_and_embedder_targets_are_fooled_together() -> None:
    torch.manual_seed(0)
    pictures = blobs(60, 0)[0]
    attributes = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(768, 40)).requires_grad_(False)
    trunk = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(768, 16)).requires_grad_(False)

    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.normalize(trunk(x))

    targets = [AttributeTarget(attributes, 32), EmbedderTarget(Unit(), 32, 0.5)]
    found = universal.solve(pictures, targets, Plan(0.1, epochs=8))
    assert min(found.history[-1]) > 0.5


def test_deepfool_is_done_once_enough_faces_are_fooled(classifier: nn.Module) -> None:
    enough = universal.Universal(torch.ones(3, 32, 32), 1, [[1 - universal.DELTA]])
    found = universal.solve(blobs(40, 2)[0], [ClassTarget(classifier, 3)], Plan(XI, "deepfool", 5), enough)
    assert torch.equal(found.v, enough.v)
    assert found.epochs == 5


def test_against_classes_the_descent_follows_the_clean_answers_clipped_cross_entropy() -> None:
    logits = torch.tensor([[4.0, 1.0, 0.5, -2.0], [-20.0, 1.0, 0.0, 0.0]])
    margins = logits[:, :1] - logits[:, 1:]
    expected = torch.stack([nn.functional.cross_entropy(logits[0], torch.tensor(0)), torch.tensor(universal.LOSS_CLIP)])
    assert torch.allclose(universal.standing(margins, 0.0), -expected.mean())


def test_fooled_needs_any_or_a_share() -> None:
    margins = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert fooled(margins, 0.0).tolist() == [True, True, False]
    assert fooled(margins, 0.3).tolist() == [False, True, False]


def test_disturbances_keep_shape_and_gradient() -> None:
    faces = torch.rand(2, 3, 32, 32, requires_grad=True)
    for disturbance in (Disturbance(), Disturbance("resized", 0.6), Disturbance("quantised", 0.1)):
        out = disturbances.disturbed(faces, disturbance)
        assert out.shape == faces.shape
        (gradient,) = torch.autograd.grad(out.sum(), faces)
        assert float(gradient.abs().sum()) > 0


def test_a_fine_quantisation_changes_nothing_a_coarse_one_little() -> None:
    faces = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.allclose(disturbances.quantised(faces, 1e-6), faces, atol=1e-4)
    assert 0.01 < float((disturbances.quantised(faces, 0.06) - faces).abs().mean()) < 0.3


def test_a_tintless_perturbation_leaves_local_colours_nearly_alone(classifier: nn.Module) -> None:
    pictures, targets = blobs(40, 2)[0], [ClassTarget(classifier, 3)]

    def tint(tintless: bool) -> float:
        v = universal.solve(pictures, targets, Plan(XI, epochs=3, tintless=tintless)).v
        return float(nn.functional.avg_pool2d(v[None], 9).abs().mean() / v.abs().mean())

    assert tint(True) < 0.35 * tint(False)


def test_a_tintless_perturbation_is_grey(classifier: nn.Module) -> None:
    pictures, targets = blobs(40, 2)[0], [ClassTarget(classifier, 3)]
    for solver in ("sgd", "deepfool"):
        v = universal.solve(pictures, targets, Plan(XI, solver, epochs=1, tintless=True)).v  # type: ignore[arg-type]
        assert v.abs().max() > 0.1
        assert torch.equal(v[0], v[1])
        assert torch.equal(v[0], v[2])


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="xi: expected"):
        Plan(10)
    with pytest.raises(ConfigError, match="no solver 'adam'"):
        Plan(0.1, "adam")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="epochs: expected at least 1, got 0"):
        Plan(0.1, epochs=0)


def stage_batch() -> FaceBatch:
    return FaceBatch(torch.zeros(2, 3, 32, 32), torch.ones(2, 1, 32, 32), (b"",) * 2, (b"",) * 2,
                     faces_B3HW=torch.zeros(2, 3, 32, 32))  # fmt: skip


def test_stage_four_adds_the_same_v_to_every_face_at_the_size_asked_for() -> None:
    v = torch.rand(3, 32, 32).sign()
    done = Perturb(v, XI)(stage_batch())
    assert done.faces_B3HW is not None
    assert torch.equal(done.faces_B3HW[0], done.faces_B3HW[1])
    assert float(done.faces_B3HW.abs().max()) == pytest.approx(2 * XI)
    assert done.public["perturbation"] == XI


def test_stage_four_resizes_v_within_its_ball_and_clips_faces() -> None:
    done = Perturb(torch.randn(3, 16, 16).sign(), 0.2)(stage_batch().with_(faces_B3HW=torch.ones(2, 3, 32, 32)))
    assert done.faces_B3HW is not None
    assert float(done.faces_B3HW.max()) <= 1
    assert float((done.faces_B3HW - 1).abs().max()) <= 0.4 + 1e-6


def test_stage_four_refuses_a_v_that_is_too_large() -> None:
    with pytest.raises(StageError, match="expected v of shape"):
        Perturb(torch.full((3, 32, 32), 2.0), XI)
