"""The training tasks by name, and the faces they are trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.celeba import (
    CROP,
    HEIGHT,
    CelebA,
    large_faces,
    list_in,
    read_attributes,
    read_pairs,
    slack_rows,
)
from anonymousnet.data.paths import resolve_path
from anonymousnet.data.shards import is_dataset
from anonymousnet.data.synthetic import synthetic_dataset
from anonymousnet.errors import ConfigError, DataError
from anonymousnet.training.attributes import AttributesTask, SurroundingsTask
from anonymousnet.training.data import FaceTable
from anonymousnet.training.embedder import EmbedderTask
from anonymousnet.training.gan import GeneratorTask
from anonymousnet.training.labels import labelled
from anonymousnet.training.landmarks import LandmarksTask
from anonymousnet.training.painter import PainterTask
from anonymousnet.training.refiner import RefinerTask
from anonymousnet.training.source import open_source
from anonymousnet.training.task import Task
from anonymousnet.training.translation import TranslatorTask

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        AttributesTask,
        EmbedderTask,
        GeneratorTask,
        LandmarksTask,
        PainterTask,
        RefinerTask,
        SurroundingsTask,
        TranslatorTask,
    )
}


def task_named(name: str) -> type[Task]:
    """The task class called `name`. Raises ConfigError listing the names there are."""
    if name not in TASKS:
        raise ConfigError(f"no training task '{name}'; expected one of {', '.join(TASKS)}")
    return TASKS[name]


def celeba_folder() -> Path | None:
    """CelebA's folder from ANONYMOUSNET_CELEBA, or None."""
    named = os.environ.get("ANONYMOUSNET_CELEBA")
    return resolve_path(named) if named else None


def training_tables(
    data: Path | None,
    px: int,
    seed: int,
    labels: str | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda rows: rows,
    slack: bool = False,
    large: bool = False,
) -> tuple[FaceTable, FaceTable]:
    """(training, held out) faces at `px`: train and validation partitions of CelebA's folder, or of what `preprocess`
    made of one; synthetic where data is None. `labels`: the file of the landmarks that every face needs. `slack`: with
    what aligned images show above and below the crop. `large`: the faces of photos as taken,
    where `px` is more than aligned images have.

    Raises StorageError, AttributeTableError, DataError when the folder does not hold CelebA.
    """
    if data is None:
        images, attributes, identities, points = synthetic_dataset(512, px, 64, seed)
        table = FaceTable(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), attributes, identities, points)
        return table.take(np.arange(384)).numbered(), table.take(np.arange(384, 512)).numbered()
    if is_dataset(data):
        sources = [open_source(data, split, px, labels is not None) for split in ("train", "validation")]
        return sources[0].table(), sources[1].table()
    if large and px > CROP:
        return _large_tables(data, px)
    celeba = CelebA.open(data)
    tables = []
    for partition in ("train", "validation"):
        part = celeba.part(partition)
        if not len(part):
            raise DataError(f"expected {partition} images in {data}, got none; check list_eval_partition.txt")
        landmarks: NDArray[np.float32] | None = None
        rows = slack_rows(px) if slack else 0
        if labels:  # other tasks take every face, whether its landmarks were found or not
            part, landmarks = _landmarks(data / labels, part, px, rows)
        faces = part.faces(px, progress, rows)
        tables.append(FaceTable(faces, part.attributes, part.identities, landmarks).numbered())
    return tables[0], tables[1]


HELD_OUT_PEOPLE = 25
"""One in so many people of the photos as taken is held out: all of them are of the train partition."""


def _large_tables(folder: Path, px: int) -> tuple[FaceTable, FaceTable]:
    names, faces = large_faces(folder, px)
    listed, attributes = read_attributes(list_in(folder, "list_attr_celeba.txt"))
    row = {name: i for i, name in enumerate(listed)}
    people = read_pairs(folder / "identity_CelebA.txt")
    identities = np.array([people[name] for name in names])
    table = FaceTable(faces, attributes[[row[name] for name in names]], identities)
    held_out = np.isin(identities, np.unique(identities)[::HELD_OUT_PEOPLE])
    return table.take(np.flatnonzero(~held_out)).numbered(), table.take(np.flatnonzero(held_out)).numbered()


def _landmarks(path: Path, part: CelebA, px: int, slack: int) -> tuple[CelebA, NDArray[np.float32] | None]:
    """The 68 points in pixels of the face, and the images that have them; all images and None without the file."""
    if not path.exists():
        return part, None
    points = labelled(path, part.names)
    kept = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    top = (HEIGHT - CROP) // 2
    return part.take(kept), ((points[kept] - [0, top]) * (px / CROP) + [0, slack]).astype(np.float32)
