"""Who tries to undo a release, and how far each of them gets.

    naive      compares released faces with clean ones, as any recogniser does
    parrot     fine-tunes our embedder on released faces of people it knows (McPherson, Shokri & Shmatikov,
               *Defeating image obfuscation with deep learning*, 2016), then recognises others
    reversal   trains a network to turn released faces back into their sources, then recognises what comes out
    inference  fine-tunes our classifier on released faces to read TRUE attributes

Trained attackers learn from the people marked `known`, for whom they hold originals and released faces, and are scored
on all others alone. What an attacker is told about the scored people is only a gallery of clean faces.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.device import Runner, to_device
from anonymousnet.metrics.attributes import score_attributes
from anonymousnet.metrics.bootstrap import clustered, interval, resampled, totals
from anonymousnet.metrics.identity import Rate
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.embedder import Embedder
from anonymousnet.privacy.finetune import Effort, Undo, fit, unfreeze_late
from anonymousnet.privacy.matching import Matching, match, thresholds
from anonymousnet.privacy.pairs import Pairs, true_probabilities
from anonymousnet.privacy.recognisers import Ours, Recogniser, resized, unit_range
from anonymousnet.training.augment import flip, jitter
from anonymousnet.training.embedder import MARGIN, SCALE
from anonymousnet.training.losses import arcface_loss, attribute_loss, cosines

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]

KNOWN_SHARE = 0.5
"""Share of the people that trained attackers learn from."""
PARROT_LR, REVERSAL_LR, INFERENCE_LR = 3e-4, 5e-4, 3e-4


@dataclass(frozen=True, slots=True)
class Attack:
    """One attacker with one recogniser."""

    attacker: str
    recogniser: str
    impostors: int
    """Clean pairs of different people that the thresholds were fixed on."""
    matchings: list[Matching]


@dataclass(frozen=True, slots=True)
class Inference:
    """What a trained attacker reads of the true attributes that the painted region carries. Shares of (face,
    attribute) trials; intervals by people."""

    accuracy: Rate
    majority: Rate
    """Always answering what most known people have."""
    as_released: Rate | None
    """Believing the released attributes; None where the method releases none."""
    balanced: float
    """Mean over attributes of the mean of sensitivity and specificity; guessing gives 0.5."""
    advantage: Rate
    """accuracy - majority."""
    most: list[tuple[str, float, float]]
    """The attributes read best beyond the majority: name, accuracy, majority."""
    by_subgroup: dict[str, Rate]
    """Subgroup -> advantage."""


def known_people(identities_N: NDArray[np.int64]) -> Mask:
    """Rows of the people that trained attackers learn from; the same at every call."""
    people = np.unique(identities_N)
    chosen = np.random.default_rng(0).permutation(people)[: int(len(people) * KNOWN_SHARE)]
    return np.isin(identities_N, chosen)


@dataclass(frozen=True, slots=True)
class Scored:
    """Whom attackers are scored on: the people they did not learn from."""

    pairs: Pairs
    """All N faces of these people: their originals are the gallery."""
    probes_P: NDArray[np.int64]
    """Rows of `pairs` whose released faces are looked up in it."""
    vectors: Mapping[str, Vectors]
    """Recogniser -> vectors of the N originals."""
    split: bool
    """Whether subgroups are scored too."""

    @property
    def released_P3HW(self) -> NDArray[np.uint8]:
        """The probes."""
        return self.pairs.released_N3HW[self.probes_P]

    def attack(self, attacker: str, recogniser: str, vectors_PD: Vectors, clean_ND: Vectors | None = None) -> Attack:
        """How often the probes' vectors find their people among `clean_ND` (default: the recogniser's own)."""
        clean = self.vectors[recogniser] if clean_ND is None else clean_ND
        groups = self.pairs.subgroups() if self.split else None
        return naive(recogniser, clean, vectors_PD, self.pairs.identities_N, groups, attacker, self.probes_P)


def some_of_each(identities_N: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows of at most `most` faces of each person, in order."""
    order = np.argsort(identities_N, kind="stable")
    _, first, counts = np.unique(identities_N[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[place < most])


def naive(
    name: str, clean_ND: Vectors, released_PD: Vectors, identities_N: NDArray[np.int64],
    subgroups: Mapping[str, Mask] | None = None, attacker: str = "naive", probes_P: NDArray[np.int64] | None = None,
) -> Attack:  # fmt: skip
    """Clean gallery, released probes (rows `probes_P` of it; default: all), under the recogniser called `name`."""
    limits = thresholds(clean_ND, identities_N)
    matchings = match(clean_ND, released_PD, identities_N, limits, subgroups, probes_P)
    return Attack(attacker, name, limits.impostors, matchings)


def parrot(
    known: Pairs, start_KD: Vectors, scored: Scored, embedder: Embedder, runner: Runner, effort: Effort
) -> Attack:
    """Our embedder, fine-tuned on released and clean faces of known people with one class per person.

    `start_KD`: the embedder's vectors of the known originals; a class starts from their mean.
    """
    net = copy.deepcopy(embedder).eval()  # batch statistics stay: a few hundred steps would only spoil them
    unfreeze_late(net, net.trunk)
    ours = Ours(net, runner)
    faces = resized(np.concatenate([known.released_N3HW, known.sources_N3HW]), net.config.px)
    people, classes = np.unique(np.tile(known.identities_N, 2), return_inverse=True)
    means = np.stack([start_KD[classes[: len(known)] == i].mean(0) for i in range(len(people))])
    centres = nn.Parameter(torch.from_numpy(means).to(runner.device))
    labels = torch.from_numpy(classes.astype(np.int64)).to(runner.device)

    def loss_of(chosen: NDArray[np.int64]) -> Tensor:
        batch = jitter(flip(_placed(faces[chosen], runner)), 5, 0.08, 0.03)
        loss, _ = arcface_loss(cosines(net(_last(batch)), centres), labels[chosen], MARGIN, SCALE)
        return loss

    fit([*net.parameters(), centres], loss_of, len(faces), PARROT_LR, effort, runner)
    clean = ours.embed(scored.pairs.sources_N3HW)
    return scored.attack("parrot", ours.name, ours.embed(scored.released_P3HW), clean)


def reversal(
    known: Pairs, scored: Scored, recognisers: Sequence[Recogniser], runner: Runner, effort: Effort
) -> list[Attack]:
    """A U-Net trained to undo the release on known people, then every recogniser on what it makes of the others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = to_device(Undo(region=known.region), runner.device)
    sources, released = known.sources_N3HW, known.released_N3HW

    def loss_of(chosen: NDArray[np.int64]) -> Tensor:
        both = torch.cat([_placed(released[chosen], runner), _placed(sources[chosen], runner)], 1)
        both = flip(both)
        error: Tensor = net(_last(both[:, :3])) - both[:, 3:]
        return error.abs().mean()

    # It starts from nothing where the others start from a trained network: more and smaller steps.
    own = Effort(2 * effort.steps, max(2, effort.batch // 2))
    fit(net.parameters(), loss_of, len(known), REVERSAL_LR, own, runner)
    placed = runner.place(net)
    undone = runner(placed, unit_range(scored.released_P3HW))
    faces = np.asarray(((undone + 1) * 127.5).round().clamp(0, 255).byte().numpy())
    return [scored.attack("reversal", r.name, r.embed(faces)) for r in recognisers]


def infer(known: Pairs, others: Pairs, classifier: Classifier, runner: Runner, effort: Effort) -> Inference:
    """Stage I's classifier, fine-tuned on released faces of known people to say what is TRUE of them."""
    net = copy.deepcopy(classifier).eval()
    unfreeze_late(net, net.trunk)
    faces = resized(known.released_N3HW, net.config.px)
    truth = torch.from_numpy(known.truth_N40).float().to(runner.device)
    to_device(net, runner.device)

    def loss_of(chosen: NDArray[np.int64]) -> Tensor:
        batch = jitter(flip(_placed(faces[chosen], runner)), 5, 0.06, 0.02)
        loss, _ = attribute_loss(net(_last(batch)).float(), truth[chosen])
        return loss

    fit(net.parameters(), loss_of, len(known), INFERENCE_LR, effort, runner)
    return _read(true_probabilities(net, runner)(others.released_N3HW), others, known.truth_N40.mean(0) > 0.5)


def _read(probabilities: NDArray[np.floating], scored: Pairs, majority_40: Mask) -> Inference:
    inside = np.array([INDEX[name] for name in scored.region.inside])
    said, truth, ids = scored.said_N40, scored.truth_N40, scored.identities_N
    people = np.repeat(ids, len(inside))
    right = (probabilities > 0.5)[:, inside] == truth[:, inside]
    usual = np.broadcast_to(majority_40, truth.shape)[:, inside] == truth[:, inside]
    scores = score_attributes(probabilities, truth, majority_40)
    gains = scores.accuracy - scores.majority
    best = [i for i in np.argsort(-gains, kind="stable") if i in inside][:5]
    gain = right.astype(float) - usual
    return Inference(
        accuracy=clustered(right.ravel(), people),
        majority=clustered(usual.ravel(), people),
        as_released=None if said is None else clustered((said == truth)[:, inside].ravel(), people),
        balanced=float(np.nanmean(scores.balanced[inside])),
        advantage=_difference(gain, ids),
        most=[(ATTRIBUTES[i], float(scores.accuracy[i]), float(scores.majority[i])) for i in best],
        by_subgroup={name: _difference(gain[rows], ids[rows]) for name, rows in scored.subgroups().items()},
    )


def _difference(gain_NA: NDArray[np.floating], ids_N: NDArray[np.int64]) -> Rate:
    """Mean gain and its bootstrap interval over people."""
    low, high = interval(resampled(totals(gain_NA.sum(1), ids_N), totals(np.full(*gain_NA.shape), ids_N)))
    return Rate(float(gain_NA.mean()), low, high, gain_NA.size)


def _placed(faces: NDArray[np.uint8], runner: Runner) -> Tensor:
    return unit_range(faces).to(runner.device)


def _last(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last)
