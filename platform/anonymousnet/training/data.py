"""What training tasks eat: a table of aligned faces in memory, drawn in an order that depends on (seed, step) alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.errors import DataError


@dataclass(frozen=True, slots=True)
class Batch:
    """B faces with their labels, on the training device."""

    faces_B3HW: Tensor
    """float32 in [-1, 1]"""
    attributes_B40: Tensor
    """float32, 0 or 1"""
    identities_B: Tensor
    """int64, 0 to number of identities - 1"""
    landmarks_B682: Tensor | None = None
    """float32, pixels of the face; None where the data has none"""

    def __len__(self) -> int:
        return len(self.faces_B3HW)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a task must know of the data before it sees any."""

    faces: int
    identities: int
    """Their number, once they are numbered from 0."""
    landmarks: bool
    """Whether every face has its 68."""


@dataclass(frozen=True, slots=True)
class FaceTable:
    """N aligned faces and their labels."""

    faces_N3HW: NDArray[np.uint8]
    attributes_N40: NDArray[np.bool_]
    identities_N: NDArray[np.int64]
    landmarks_N682: NDArray[np.float32] | None = None
    files: tuple[int, ...] = ()
    """Rows of each file they come from: the order of training follows it (`windows`)."""

    def __post_init__(self) -> None:
        n = len(self.faces_N3HW)
        if n == 0:
            raise DataError("expected at least one face to train on, got none; check the folder and its partition list")
        if not len(self.attributes_N40) == len(self.identities_N) == n:
            raise DataError(
                f"expected {n} rows of every label, got {len(self.attributes_N40)} and {len(self.identities_N)}"
            )

    def __len__(self) -> int:
        return len(self.faces_N3HW)

    @property
    def contents(self) -> Contents:
        """What a task must know of it."""
        return Contents(len(self), int(self.identities_N.max()) + 1, self.landmarks_N682 is not None)

    def numbered(self) -> FaceTable:
        """Identities renumbered 0, 1, 2, ... in ascending order, as a softmax over them needs."""
        _, numbers = np.unique(self.identities_N, return_inverse=True)
        return dataclasses.replace(self, identities_N=numbers.astype(np.int64))

    def take(self, rows: NDArray[np.int64]) -> FaceTable:
        """Some rows, in the given order."""
        points = None if self.landmarks_N682 is None else self.landmarks_N682[rows]
        return FaceTable(self.faces_N3HW[rows], self.attributes_N40[rows], self.identities_N[rows], points)

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> Batch:
        """Decode rows to tensors."""
        faces = torch.from_numpy(self.faces_N3HW[rows]).to(device).float().div_(127.5).sub_(1)
        points = None if self.landmarks_N682 is None else torch.from_numpy(self.landmarks_N682[rows]).to(device)
        return Batch(
            faces.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(self.attributes_N40[rows]).to(device).float(),
            torch.from_numpy(self.identities_N[rows]).to(device),
            points,
        )


WINDOW = 1 << 16
"""Faces that are shuffled together: more than these are never held in memory at once."""


def windows(seed: int, epoch: int, sizes: Sequence[int], window: int = WINDOW) -> list[NDArray[np.int64]]:
    """One epoch's order over all rows of files that hold `sizes` rows: row numbers, window by window.

    Files are drawn in random order, gathered until a window is full, and the window's rows shuffled. Where all fit
    into one window it is one permutation of all rows. It depends on (seed, epoch) alone, on no number of workers.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if starts[-1] <= window:
        return [np.random.default_rng([seed, epoch]).permutation(int(starts[-1]))]
    source = np.random.default_rng([seed, epoch])
    found, held = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for file in source.permutation(len(sizes)):
        if held and sum(map(len, held)) + sizes[file] > window:
            found.append(source.permutation(np.concatenate(held)))
            held = []
        held.append(np.arange(starts[file], starts[file + 1]))
    return [*found, source.permutation(np.concatenate(held))]


def rows_of_step(seed: int, step: int, batch: int, n: int, sizes: Sequence[int] = ()) -> NDArray[np.int64]:
    """Rows (batch,) that step `step` sees of n, which lie in files of `sizes` (none given: in one)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    rows = np.empty(batch, np.int64)
    for epoch in np.unique(positions // n):
        here = positions // n == epoch
        rows[here] = np.concatenate(windows(seed, int(epoch), sizes or (n,)))[positions[here] % n]
    return rows
