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

from anonymousnet.data.attributes import ATTRIBUTES, INDEX, INSIDE_FACE
from anonymousnet.device import Runner, to_device
from anonymousnet.metrics.attributes import score_attributes
from anonymousnet.metrics.identity import Rate
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.embedder import Embedder
from anonymousnet.privacy.finetune import Effort, Undo, fit, unfreeze_late
from anonymousnet.privacy.matching import Matching, clustered, match, resampled, thresholds
from anonymousnet.privacy.pairs import Pairs, true_probabilities
from anonymousnet.privacy.recognisers import Ours, Recogniser, resized, unit_range
from anonymousnet.training.augment import flip, jitter
from anonymousnet.training.embedder import MARGIN, SCALE
from anonymousnet.training.losses import arcface_loss, attribute_loss, cosines

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]

KNOWN_SHARE = 0.5
"""Share of the people that trained attackers learn from."""
PARROT_LR, REVERSAL_LR, INFERENCE_LR = 3e-4, 2e-3, 3e-4


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


def naive(
    name: str, clean_ND: Vectors, released_ND: Vectors, identities_N: NDArray[np.int64],
    subgroups: Mapping[str, Mask] | None = None, attacker: str = "naive",
) -> Attack:  # fmt: skip
    """Clean gallery, released probes, under the recogniser called `name`."""
    limits = thresholds(clean_ND, identities_N)
    matchings = match(clean_ND, released_ND, identities_N, limits, subgroups)
    return Attack(attacker, name, limits.impostors, matchings)


def parrot(
    pairs: Pairs, known_N: Mask, embedder: Embedder, runner: Runner, effort: Effort, split: bool = False
) -> Attack:
    """Our embedder, fine-tuned on released and clean faces of known people with one class per person."""
    net = copy.deepcopy(embedder).eval()  # batch statistics stay: a few hundred steps would only spoil them
    unfreeze_late(net, net.trunk)
    ours = Ours(net, runner)
    rows = np.flatnonzero(known_N)
    faces = resized(np.concatenate([pairs.released_N3HW[rows], pairs.sources_N3HW[rows]]), net.config.px)
    people, classes = np.unique(np.tile(pairs.identities_N[rows], 2), return_inverse=True)
    start = ours.embed(faces)
    means = np.stack([start[classes == i].mean(0) for i in range(len(people))])
    centres = nn.Parameter(torch.from_numpy(means).to(runner.device))
    labels = torch.from_numpy(classes.astype(np.int64)).to(runner.device)

    def loss_of(chosen: NDArray[np.int64]) -> Tensor:
        batch = jitter(flip(_placed(faces[chosen], runner)), 5, 0.08, 0.03)
        loss, _ = arcface_loss(cosines(net(_last(batch)), centres), labels[chosen], MARGIN, SCALE)
        return loss

    fit([*net.parameters(), centres], loss_of, len(faces), PARROT_LR, effort, runner)
    others = pairs.take(np.flatnonzero(~known_N))
    clean, released = ours.embed(others.sources_N3HW), ours.embed(others.released_N3HW)
    groups = others.subgroups() if split else None
    return naive("ours", clean, released, others.identities_N, groups, attacker="parrot")


def reversal(
    pairs: Pairs, known_N: Mask, clean: Mapping[str, Vectors], recognisers: Sequence[Recogniser], runner: Runner,
    effort: Effort, split: bool = False,
) -> list[Attack]:  # fmt: skip
    """A U-Net trained to undo the release on known people, then every recogniser on what it makes of the others.

    `clean`: recogniser -> vectors of all N sources. `split`: score subgroups too.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = to_device(Undo(), runner.device)
    known, others = np.flatnonzero(known_N), np.flatnonzero(~known_N)
    sources, released = pairs.sources_N3HW[known], pairs.released_N3HW[known]

    def loss_of(chosen: NDArray[np.int64]) -> Tensor:
        both = torch.cat([_placed(released[chosen], runner), _placed(sources[chosen], runner)], 1)
        both = flip(both)
        error: Tensor = net(_last(both[:, :3])) - both[:, 3:]
        return error.abs().mean()

    # It starts from nothing where the others start from a trained network: more and smaller steps.
    own = Effort(2 * effort.steps, max(2, effort.batch // 2))
    fit(net.parameters(), loss_of, len(known), REVERSAL_LR, own, runner)
    placed = runner.place(net)
    undone = runner(placed, unit_range(pairs.released_N3HW[others]))
    faces = np.asarray(((undone + 1) * 127.5).round().clamp(0, 255).byte().numpy())
    scored = pairs.take(others)
    groups = scored.subgroups() if split else None
    return [
        naive(r.name, clean[r.name][others], r.embed(faces), scored.identities_N, groups, attacker="reversal")
        for r in recognisers
    ]


def infer(pairs: Pairs, known_N: Mask, classifier: Classifier, runner: Runner, effort: Effort) -> Inference:
    """Stage I's classifier, fine-tuned on released faces of known people to say what is TRUE of them."""
    net = copy.deepcopy(classifier).eval()
    unfreeze_late(net, net.trunk)
    known, others = np.flatnonzero(known_N), np.flatnonzero(~known_N)
    faces = resized(pairs.released_N3HW[known], net.config.px)
    truth = torch.from_numpy(pairs.truth_N40[known]).float().to(runner.device)
    to_device(net, runner.device)

    def loss_of(chosen: NDArray[np.int64]) -> Tensor:
        batch = jitter(flip(_placed(faces[chosen], runner)), 5, 0.06, 0.02)
        loss, _ = attribute_loss(net(_last(batch)).float(), truth[chosen])
        return loss

    fit(net.parameters(), loss_of, len(known), INFERENCE_LR, effort, runner)
    probabilities = true_probabilities(net, runner)(pairs.released_N3HW[others])
    return _scored(probabilities, pairs.take(others), pairs.truth_N40[known].mean(0) > 0.5)


def _scored(probabilities: NDArray[np.floating], scored: Pairs, majority_40: Mask) -> Inference:
    inside = np.array([INDEX[name] for name in INSIDE_FACE])
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
    flat = gain_NA.ravel()
    _, where = np.unique(np.repeat(ids_N, gain_NA.shape[1]), return_inverse=True)
    sums, trials = np.bincount(where, flat), np.bincount(where)
    means = resampled(np.asarray(sums, np.float64), np.asarray(trials, np.float64))
    low, high = np.quantile(means, (0.025, 0.975))
    return Rate(float(flat.mean()), float(low), float(high), len(flat))


def _placed(faces: NDArray[np.uint8], runner: Runner) -> Tensor:
    return unit_range(faces).to(runner.device)


def _last(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last)
