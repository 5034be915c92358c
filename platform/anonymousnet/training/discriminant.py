"""An embedder made of a classifier in closed form: its trunk, and Fisher's linear discriminant for a head.

Attributes teach more than five photos a person do: the discriminant of an attribute network's features knows people
better than an embedder that started from random weights ever did. Where the landmarks lie, at which the finer features
are read, is a linear regression on the landmark network's answers. ArcFace can go on from here (`train.start`), with
the class centres: random ones would first undo what the head knows (Kumar et al., ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet import weights
from anonymousnet.config import Config
from anonymousnet.data.celeba import CelebA
from anonymousnet.device import Runner, autocast, to_device
from anonymousnet.errors import DataError
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.dan import DAN
from anonymousnet.nets.embedder import EmbedderConfig, pooled
from anonymousnet.nets.fold import folded
from anonymousnet.training.embedder import WithCentres, embed, verification_scores

START = "embedder-start"
"""What config.json calls an embedder beside the centres of its training people."""
COMPONENTS, SHRINKAGE = 1000, 0.4
"""Principal components of each group of features, and what of the within-class scatter is made alike in all
directions. On validation faces neither matters much: 300 to 2,000 and 0.05 to 0.5 lie within 0.03."""
BATCH = 64

Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Made:
    """What was written, and how it does on the validation partition."""

    sha256: str
    faces: int
    people: int
    scores: dict[str, float]


def make_embedder(name: str, out: Path, data: Path, config: Config, progress: Progress = iter) -> Made:
    """An embedder from the classifier `name` and CelebA's training partition, into `out`; for `train.start`, with its
    centres, into `out`/start. Landmarks are those of `align.landmarks`.

    Raises WeightsError for other weights or none, DataError where a partition is empty.
    """
    read = weights.read(name)
    classifier = weights.build(read, Classifier)
    landmarker = folded(weights.build(weights.read(config.align.landmarks or "landmarks"), DAN))
    celeba = CelebA.open(data)
    parts = {split: celeba.part(split) for split in ("train", "validation")}
    for split, part in parts.items():
        if not len(part):
            raise DataError(f"expected {split} images in {data}, got none; check list_eval_partition.txt")
    px = classifier.config.px
    people, labels = np.unique(parts["train"].identities, return_inverse=True)
    net = WithCentres(EmbedderConfig(px=px, width=classifier.config.width), len(people))
    net.trunk.load_state_dict(classifier.trunk.state_dict())
    runner = Runner(config.device, config.precision, BATCH)
    to_device(net, runner.device).eval()
    to_device(landmarker, runner.device)
    fast = autocast(runner.device, runner.dtype)
    with torch.inference_mode():
        faces = parts["train"].faces(px)
        with fast:
            answers = list(_answers(net, landmarker, faces, progress))
        _set_points(net, *(np.concatenate(part) for part in zip(*answers, strict=True)))
        with fast:
            features = np.concatenate(list(_features(net, faces, progress)))
        _set_head(net, features, np.repeat(labels, 2))
        with fast:
            found = embed(net, parts["validation"].faces(px))
    scores = verification_scores(found, parts["validation"].identities)
    notes = {"of": read.sha256, "faces": len(faces), "scores": scores}
    shape = net.config.model_dump()
    weights.write(out / "start", START, shape, net.state_dict(), notes)
    sha256 = weights.write(out, "embedder", shape, net.embedder_state(), notes)
    return Made(sha256, len(faces), len(people), scores)


def _answers(
    net: WithCentres, landmarker: DAN, faces_N3HW: NDArray[np.uint8], progress: Progress
) -> Iterable[tuple[NDArray[np.float16], NDArray[np.float32]]]:
    """Pooled features of faces (B, P), and their landmarks in shares of the crop (B, 136)."""
    side = landmarker.config.px
    for start in progress(range(0, len(faces_N3HW), BATCH)):
        faces = _unit(faces_N3HW[start : start + BATCH], net)
        small = F.interpolate(faces, size=(side, side), mode="bilinear", antialias=True)
        points = landmarker(small.contiguous(memory_format=torch.channels_last))[-1] / side
        yield pooled(net.trunk.maps(faces)).half().cpu().numpy(), points.flatten(1).cpu().numpy()


def _set_points(net: WithCentres, pooled_NP: NDArray[np.float16], landmarks_NL: NDArray[np.float32]) -> None:
    """Landmarks as a linear function of the pooled features: regression on principal components."""
    values, basis = principal(np.split(pooled_NP, [net.groups[0]], axis=1))
    middle = landmarks_NL.mean(0)
    slope = np.linalg.lstsq(values.numpy(), landmarks_NL - middle, rcond=None)[0]
    weight = _unwhitened(basis, slope)
    net.points_weight.copy_(torch.from_numpy(weight.T))
    net.points_bias.copy_(torch.from_numpy(middle - pooled_NP.astype(np.float32).mean(0) @ weight))


def _features(net: WithCentres, faces_N3HW: NDArray[np.uint8], progress: Progress) -> Iterable[NDArray[np.float16]]:
    """Features of every face and of its mirror image, one after the other: (2 B, D)."""
    for start in progress(range(0, len(faces_N3HW), BATCH)):
        faces = _unit(faces_N3HW[start : start + BATCH], net)
        pair = [net.features(net.trunk.maps(one)).float() for one in (faces, faces.flip(3))]
        yield torch.stack(pair, 1).flatten(0, 1).half().cpu().numpy()


def _unit(faces_N3HW: NDArray[np.uint8], net: WithCentres) -> Tensor:
    faces = torch.from_numpy(faces_N3HW).to(net.head.weight.device).float().div_(127.5).sub_(1)
    return faces.contiguous(memory_format=torch.channels_last)


def _set_head(net: WithCentres, features_ND: NDArray[np.float16], labels_N: NDArray[np.int64]) -> None:
    """The discriminant into the head, and the people's mean directions into the centres."""
    groups = np.split(features_ND, np.cumsum(net.groups)[:-1], axis=1)
    projection = discriminant(groups, labels_N, net.config.dimensions)
    projected = torch.from_numpy(features_ND.astype(np.float32) @ projection)
    # One variance for all: where people differ more than photos of one do, a direction counts for more.
    net.scale.running_mean, net.scale.running_var = projected.mean(0), projected.var(0).mean().expand(len(projection.T))
    net.head.weight.copy_(torch.from_numpy(projection.T.copy()))
    vectors = F.normalize(projected - net.scale.running_mean)
    sums = torch.zeros_like(net.centres.weight, device="cpu").index_add_(0, torch.from_numpy(labels_N), vectors)
    net.centres.weight.copy_(F.normalize(sums))
    to_device(net, net.head.weight.device)


def principal(groups: Sequence[NDArray[np.floating]]) -> tuple[Tensor, list[Tensor]]:
    """Principal components of each group (N, D): their values at unit variance, side by side (N, all), and per group
    what a centred feature vector is multiplied by (D, components)."""
    values, basis = [], []
    for features_ND in groups:
        features = torch.from_numpy(features_ND.astype(np.float32))
        features -= features.mean(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _, singular, axes = torch.svd_lowrank(features, min(COMPONENTS, *features.shape), niter=2)
        # Features are kept in half precision: what varies by less than a thousandth is rounding.
        basis.append(axes / (singular / len(features) ** 0.5).clamp(min=1e-3))
        values.append(features @ basis[-1])
    return torch.cat(values, 1), basis


def _unwhitened(basis: Sequence[Tensor], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """A linear function of the principal components, (all, M), as one of the features, (D, M)."""
    parts = np.split(matrix, np.cumsum([part.shape[1] for part in basis])[:-1])
    return np.concatenate([part.numpy() @ rows for part, rows in zip(basis, parts, strict=True)]).astype(np.float32)


def discriminant(
    groups: Sequence[NDArray[np.floating]], labels_N: NDArray[np.int64], dimensions: int
) -> NDArray[np.float32]:
    """(D, dimensions): directions that tell classes 0 to K - 1 apart, the best last (Fisher, 1936; after principal
    components: Belhumeur et al., TPAMI 1997). Within classes, features vary about equally along all of them.
    `groups`: the features (N, D) in parts, of each of which the components are taken for themselves.

    Raises DataError where there are fewer usable directions than `dimensions`.
    """
    shape = len(labels_N), sum(group.shape[1] for group in groups)
    if min(shape) < dimensions:
        raise DataError(f"expected at least {dimensions} faces and features, got {shape}; use more faces")
    values, basis = principal(groups)
    points, usable = values.double().numpy(), values.shape[1]
    counts = np.bincount(labels_N).clip(1)
    means = np.zeros((len(counts), usable))
    np.add.at(means, labels_N, points)
    means /= counts[:, None]
    rest = points - means[labels_N]
    within = rest.T @ rest / len(rest)
    within += np.eye(usable) * SHRINKAGE * np.trace(within) / usable
    scatter, axes = np.linalg.eigh(within)
    sphere = axes / np.sqrt(scatter)
    _, best = np.linalg.eigh((means @ sphere).T @ (means @ sphere) / len(means))
    return _unwhitened(basis, sphere @ best[:, -dimensions:])
