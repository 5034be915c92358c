"""Preprocessed shards as a training set: which of their rows a task can use, and how rows become faces."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from anonymousnet.data.shards import ShardSet, decode, open_shards, read_rows
from anonymousnet.errors import DataError
from anonymousnet.training.data import Contents, FaceTable


@dataclass(frozen=True)
class Source:
    """The usable rows of one split, numbered 0, 1, ... over all its files."""

    shards: ShardSet
    usable: tuple[NDArray[np.int64], ...]
    """Per file: the rows in it that the task can use."""
    people: NDArray[np.int64]
    """Identity numbers that occur, ascending; a face's number is its place in here."""
    landmarks: bool
    px: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Usable rows per file."""
        return tuple(len(rows) for rows in self.usable)

    @property
    def contents(self) -> Contents:
        """What a task must know of it."""
        return Contents(sum(self.sizes), len(self.people), self.landmarks)

    def read(self, rows: NDArray[np.int64]) -> pa.Table:
        """The given rows, in the given order, images still encoded. Raises DataError, StorageError."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        files = np.searchsorted(starts, rows, side="right") - 1
        order = np.argsort(files, kind="stable")
        tables = []
        for file in np.unique(files):
            inside = rows[order][files[order] == file] - starts[file]
            tables.append(read_rows(self.shards, int(file), self.usable[file][inside]))
        return pa.concat_tables(tables).take(pa.array(np.argsort(order)))

    def decode(self, table: pa.Table) -> FaceTable:
        """Faces at `px`, identities numbered."""
        faces = decode(table, self.px)
        return dataclasses.replace(faces, identities_N=np.searchsorted(self.people, faces.identities_N))

    def table(self) -> FaceTable:
        """All of it in memory, in order."""
        parts = [self.decode(read_rows(self.shards, i, rows)) for i, rows in enumerate(self.usable) if len(rows)]
        points = [part.landmarks_N682 for part in parts]
        return FaceTable(
            np.concatenate([part.faces_N3HW for part in parts]),
            np.concatenate([part.attributes_N40 for part in parts]),
            np.concatenate([part.identities_N for part in parts]),
            np.concatenate([p for p in points if p is not None]) if self.landmarks else None,
            self.sizes,
        )


def open_source(
    root: str | Path, split: str, px: int, landmarks: bool, filesystem: pafs.FileSystem | None = None
) -> Source:
    """The rows of a split that a task can use: those with landmarks where it needs them, all otherwise.

    Raises StorageError, DataError when the shards are not there, do not read, or hold no such row.
    """
    shards = open_shards(root, split, filesystem)
    usable = [np.arange(rows) for rows in shards.rows]
    if landmarks:
        usable = [_labelled(shards, i) for i in range(len(shards.files))]
    if not sum(map(len, usable)):
        raise DataError(
            f"expected faces with 68 landmarks in {root}/{split}, found none; put the teacher's landmarks_68.npz "
            "beside the photos (`python -m anonymousnet.training.teacher`) and preprocess them again"
        )
    return Source(shards, tuple(usable), np.unique(shards.identities()), landmarks, px)


def _labelled(shards: ShardSet, file: int) -> NDArray[np.int64]:
    column = pq.read_table(shards.files[file], columns=["landmarks"], filesystem=shards.filesystem)["landmarks"]
    return np.flatnonzero(np.asarray(column.is_valid()))
