"""Stage: the template that the four stages follow.

`__call__` is final: it checks the batch, times `apply`, and checks what came back. A stage writes only `apply`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self, final

import torch

from anonymousnet.errors import StageError
from anonymousnet.faces import FaceBatch


class Stage(ABC):
    """One step from a FaceBatch to a FaceBatch."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of FaceBatch that must be there before, e.g. ("released_B40",)."""
    gives: ClassVar[tuple[str, ...]] = ()
    """Fields that must be there after."""
    form: str | None = None
    """Arithmetic that its network runs in, where it has one."""
    weights: Mapping[str, str] = {}
    """Network -> SHA-256 of the weights that this stage works with, for the evidence."""

    def made_of(self, **weights: str) -> Self:
        """Note down the hashes of this stage's weights; returns itself."""
        self.weights = weights
        return self

    @final
    def __call__(self, batch: FaceBatch) -> FaceBatch:
        """Validate, run without gradients, time, validate. An empty batch is fine.

        Raises StageError when a field is missing or has the wrong shape, type or range.
        """
        self._require(batch, self.needs, "is missing; run the stages in their order, I to IV")
        batch.check()
        started = time.perf_counter()
        with torch.inference_mode():
            result = self.apply(batch)
        self._require(result, self.gives, "was not returned")
        if len(result) != len(batch):
            raise StageError(f"{self.name}: expected {len(batch)} faces back, got {len(result)}")
        public = {**result.public, "weights": {**batch.public.get("weights", {}), **self.weights}}
        if self.form is not None:
            public["precision"] = tuple(sorted({*batch.public.get("precision", ()), self.form}))
        seconds = {**batch.seconds, self.name: time.perf_counter() - started}
        return result.with_(public=public, seconds=seconds).check()

    @abstractmethod
    def apply(self, batch: FaceBatch) -> FaceBatch:
        """The stage's own work."""

    def _require(self, batch: FaceBatch, fields: tuple[str, ...], what: str) -> None:
        for field in fields:
            if getattr(batch, field) is None:
                raise StageError(f"{self.name}: {field} {what}")
