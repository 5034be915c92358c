"""Scores of finished weights on a partition of CelebA: what a model card says, and how to check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anonymousnet import weights
from anonymousnet.config import Config
from anonymousnet.data.attributes import ALL, subgroups
from anonymousnet.data.celeba import CelebA, Partition
from anonymousnet.device import Runner, autocast
from anonymousnet.errors import ConfigError, DataError
from anonymousnet.metrics.attributes import mean_intervals, score_attributes
from anonymousnet.nets.classifier import Classifier, Surroundings
from anonymousnet.nets.embedder import Embedder
from anonymousnet.nets.generator import GeneratorConfig
from anonymousnet.training.attributes import logits_of
from anonymousnet.training.data import FaceTable
from anonymousnet.training.detector_scores import score_detector
from anonymousnet.training.embedder import embed, verification_by_subgroup, verification_scores
from anonymousnet.training.generator_scores import Progress, score_generator
from anonymousnet.training.landmark_scores import score_landmarks

DETECTOR = "detector"
"""What is scored under this name is no weights of ours but the search for faces as a whole."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Means for a headline, rows for a table, and a row for everyone and each subgroup, with 95 % intervals."""

    name: str
    faces: int
    means: Mapping[str, float]
    rows: list[dict[str, float | str]]
    subgroups: list[dict[str, float | str]]


def score_weights(
    name: str, data: Path, partition: Partition | Literal["wild"], config: Config, progress: Progress = iter
) -> Scores:  # fmt: skip
    """Score a classifier, an embedder, a generator or a landmark network on the faces of one partition.

    `detector` as a name scores the search for faces (`detector_scores`), whatever the partition.
    `wild`: CelebA's photos as taken, for landmark networks.

    The majority baseline is the training partition's majority, which is what a constant answer could know.
    Raises ConfigError for weights of another kind, DataError for an empty partition.
    """
    if name == DETECTOR:
        photos, means, rows = score_detector(data, config, progress)
        return Scores(name, photos, means, rows, [])
    read = weights.read(name)
    runner = Runner(config.device, config.precision, 64)
    if read.network == "dan":
        faces, scored = score_landmarks(
            name, data, "test" if partition == "wild" else partition, partition == "wild", config
        )
        return Scores(name, faces, *scored)
    if partition == "wild":
        raise ConfigError("--partition wild: its photos have no lists; only landmark networks can be scored on them")
    celeba = CelebA.open(data)
    part = celeba.part(partition)
    if not len(part):
        raise DataError(f"expected {partition} images in {data}, got none; check list_eval_partition.txt")
    if read.network == "generator":
        faces, scored = score_generator(name, GeneratorConfig(**read.config).region, part, config, progress)
        return Scores(name, faces, *scored)
    net: nn.Module
    if read.network in ("classifier", "surroundings"):
        net = runner.place(weights.build(read, Surroundings if read.network == "surroundings" else Classifier))
    elif read.network == "embedder":
        net = runner.place(weights.build(read, Embedder))
    else:
        raise ConfigError(
            f"weights {name} are a {read.network}; "
            "classifiers, embedders, generators and landmark networks can be scored"
        )
    table = FaceTable(part.faces(int(read.config["px"])), part.attributes, part.identities)
    groups = {ALL: np.ones(len(part), np.bool_)} | subgroups(part.attributes)
    with torch.inference_mode(), autocast(runner.device, runner.dtype):
        if isinstance(net, Embedder):
            vectors = embed(net, table.faces_N3HW)
            by_group = verification_by_subgroup(vectors, table.identities_N, groups)
            return Scores(name, len(part), verification_scores(vectors, table.identities_N), [], by_group)
        assert isinstance(net, Classifier)
        probabilities = net.calibrated(logits_of(net, table))
    said = net.says(probabilities).numpy()
    by_group = [{"subgroup": group, **_right(said[m], part.take(np.flatnonzero(m)))} for group, m in groups.items()]
    majority = celeba.part("train").attributes.mean(0) > 0.5
    scores = score_attributes(probabilities.numpy(), part.attributes, majority, net.threshold_40.cpu().numpy())
    return Scores(name, len(part), scores.means(), scores.table(), by_group)


def _right(said_N40: NDArray[np.bool_], faces: CelebA) -> dict[str, float]:
    """Mean accuracy and balanced accuracy over the attributes, each with its 95 % interval over people."""
    means = score_attributes(said_N40.astype(np.float64), faces.attributes).means()
    found = {"faces": float(len(faces))}
    for score, (low, high) in mean_intervals(said_N40, faces.attributes, faces.identities).items():
        found |= {score: means[score], f"{score}_low": low, f"{score}_high": high}
    return found
