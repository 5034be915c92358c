"""Random numbers for the faces of a batch, the same whichever worker holds which face.

Every worker draws what one worker would draw for the whole batch, from torch's global generator, and keeps the rows
of its own faces. So a run on many workers takes the steps of a run on one. Worker r of n holds rows r, r + n, r + 2n,
...: any leading part of the batch, such as its first half, is then a leading part on every worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_SHARE: ContextVar[tuple[int, int]] = ContextVar("share", default=(0, 1))


@contextmanager
def share(rank: int, workers: int) -> Iterator[None]:
    """Inside, this process holds the rows rank, rank + workers, ... of every batch."""
    token = _SHARE.set((rank, workers))
    try:
        yield
    finally:
        _SHARE.reset(token)


def uniform(rows: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """(rows, *shape), uniform in [0, 1)."""
    return _own(torch.rand, rows, shape, device)


def normal(rows: int, *shape: int, device: torch.device | None = None) -> Tensor:
    """(rows, *shape), standard normal."""
    return _own(torch.randn, rows, shape, device)


def integers(below: int, rows: int, device: torch.device | None = None) -> Tensor:
    """(rows,) int64, uniform in 0 to below - 1."""

    def sample(size: tuple[int, ...], **options: Any) -> Tensor:
        return torch.randint(below, size, **options)

    return _own(sample, rows, (), device)


def _own(sample: Callable[..., Tensor], rows: int, shape: tuple[int, ...], device: torch.device | None) -> Tensor:
    rank, workers = _SHARE.get()
    return sample((rows * workers, *shape), device=device)[rank::workers]


class Dropout(nn.Module):
    """Dropout (Srivastava et al., JMLR 2014) that draws like everything else here. Input B x ..."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = uniform(*x.shape, device=x.device) >= self.p
        return x * kept / (1 - self.p)
