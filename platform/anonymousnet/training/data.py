"""What training tasks eat: a table of aligned faces in memory, drawn in an order that depends on (seed, step) alone."""

from __future__ import annotations

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
class FaceTable:
    """N aligned faces and their labels."""

    faces_N3HW: NDArray[np.uint8]
    attributes_N40: NDArray[np.bool_]
    identities_N: NDArray[np.int64]
    landmarks_N682: NDArray[np.float32] | None = None

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
    def identities(self) -> int:
        """Number of identities, once they are numbered from 0."""
        return int(self.identities_N.max()) + 1

    def numbered(self) -> FaceTable:
        """Identities renumbered 0, 1, 2, ... in ascending order, as a softmax over them needs."""
        _, numbers = np.unique(self.identities_N, return_inverse=True)
        return FaceTable(self.faces_N3HW, self.attributes_N40, numbers.astype(np.int64), self.landmarks_N682)

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


def rows_of_step(seed: int, step: int, batch: int, n: int) -> NDArray[np.int64]:
    """Rows (batch,) that step `step` sees: every epoch is one permutation of all n, drawn from (seed, epoch)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    rows = np.empty(batch, np.int64)
    for epoch in np.unique(positions // n):
        here = positions // n == epoch
        rows[here] = np.random.default_rng([seed, int(epoch)]).permutation(n)[positions[here] % n]
    return rows
