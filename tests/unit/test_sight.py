"""A code is a person: what the identity loss pulls together, pushes apart, and leaves out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet.config import TrainConfig
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.errors import ConfigError
from anonymousnet.training.data import Contents
from anonymousnet.training.gan import GeneratorTask
from anonymousnet.training.sight import Sight, identity_loss

PEOPLE = torch.eye(6)
"""Vectors of six strangers."""


def loss(paintings: list[int], sources: list[int], hidden: list[float], male: list[float]) -> tuple[Tensor, dict]:
    """Each list names whom the embedder sees in a, c, a again, c again; and in the photos of a and c."""
    return identity_loss(PEOPLE[paintings], PEOPLE[sources], torch.tensor(hidden), torch.tensor(male))


def test_a_code_that_is_a_person_costs_least() -> None:
    best, parts = loss([0, 0, 1, 1], [2, 3], [1, 1], [0, 0])
    assert [float(parts[k]) for k in ("one_code", "two_codes", "strangers", "own_source")] == [1, 0, 0, 0]
    for wrong in ([0, 0, 1, 4], [0, 0, 0, 0], [0, 4, 1, 1], [0, 0, 2, 2]):  # other person, one for all, ..., the source
        assert float(loss(wrong, [2, 3], [1, 1], [0, 0])[0]) > float(best) + 1


def test_two_sexes_and_faces_that_are_partly_seen_do_not_count() -> None:
    mixed, _ = loss([0, 4, 1, 5], [2, 3], [1, 1], [0, 1])  # nothing says that one code is to be a man and a woman
    assert float(mixed) == pytest.approx(float(loss([0, 0, 1, 1], [2, 3], [1, 1], [0, 1])[0]))
    assert float(loss([0, 0, 0, 0], [0, 0], [0, 0], [0, 0])[0]) == 0


def test_the_embedder_is_looked_through_and_not_changed() -> None:
    sight = Sight()
    faces = torch.rand(2, 3, 64, 64).requires_grad_(True)
    seen = sight.see(faces)
    assert tuple(m.shape[1] for m in seen.coarse()[1]) == sight.channels
    vectors = sight.vectors(seen)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
    F.mse_loss(vectors[0], vectors[1].detach().flip(0)).backward()
    assert faces.grad is not None
    assert float(faces.grad.abs().sum()) > 0
    assert all(p.grad is None for p in sight.embedder.parameters())
    assert not seen.detach().maps[0].requires_grad


def test_pairs_share_a_code_and_sex_follows_the_surroundings() -> None:
    task = GeneratorTask(TrainConfig(px=32, width=8, batch=16), Contents(faces=16, identities=4, landmarks=False))
    faces, attributes = torch.zeros(8, 3, 32, 32), (torch.rand(16, 40) < 0.5).float()
    inputs = task._inputs(faces, attributes, 8)
    a, c, a_again, c_again = inputs.code.chunk(4)
    assert torch.equal(a, c)
    assert torch.equal(a_again, c_again)
    assert not torch.equal(a, a_again)
    male = ATTRIBUTES.index("Male")
    assert torch.equal(inputs.attributes[:, male], attributes[:8, male].repeat(2))
    assert torch.equal(inputs.attributes[:8], attributes[:8])
    assert not torch.equal(inputs.attributes[8:], attributes[:8])


def test_a_batch_that_does_not_fall_into_quarters_is_refused() -> None:
    with pytest.raises(ConfigError, match="generator expects a multiple of 4, got 6"):
        GeneratorTask(TrainConfig(px=32, batch=6), Contents(faces=16, identities=4, landmarks=False))
