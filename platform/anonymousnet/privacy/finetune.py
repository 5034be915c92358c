"""The few hundred steps that an attacker spends: one small loop for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anonymousnet.align.region import FACE, Region
from anonymousnet.device import Runner, autocast
from anonymousnet.nets.trunk import Trunk
from anonymousnet.training.data import rows_of_step


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a trained attacker tries."""

    steps: int = 120
    batch: int = 32


def fit(
    parameters: Iterable[nn.Parameter], loss_of: Callable[[NDArray[np.int64]], Tensor], rows: int, lr: float,
    effort: Effort, runner: Runner,
) -> float:  # fmt: skip
    """Adam with half a cosine from `lr` down to nothing; `loss_of` is handed row numbers below `rows`.

    Deterministic, and leaves torch's global randomness as it was. Returns the mean loss of the last tenth.
    """
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr)
    last: list[float] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(effort.steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / effort.steps))
            with autocast(runner.device, runner.dtype):
                loss = loss_of(rows_of_step(0, step, effort.batch, rows))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step >= 0.9 * effort.steps:
                last.append(float(loss.detach()))
    return float(np.mean(last)) if last else math.nan


def unfreeze_late(net: nn.Module, trunk: Trunk) -> None:
    """Train all but the first half of the trunk: edges and textures are the same on released faces, and the first
    half is where the time goes."""
    net.requires_grad_(True)
    trunk.stem.requires_grad_(False)
    blocks = list(trunk.blocks)
    for block in blocks[: len(blocks) // 2]:
        block.requires_grad_(False)


FOLD = 4
"""Pixels per side that `Undo` folds into channels: full resolution is what costs. Folding 2x2 with half the channels
took as long for 60 steps of 32 faces, which undid 4 % of a blur (mean absolute error on new faces), as this takes for
240 steps of 16, which undo 28 %."""


class Undo(nn.Module):
    """A small U-Net from released to source: B3HW in [-1, 1], H = W, a multiple of 16.

    It changes the painted region alone. Elsewhere released and source agree, and a network that had to learn so would
    spend its first hundred steps on being punished for every change.
    """

    def __init__(self, width: int = 48, region: Region = FACE) -> None:
        super().__init__()
        self.region = region
        w, folded = width, 3 * FOLD**2
        self.stem = _block(folded, w)
        self.down1, self.down2 = _block(w, 2 * w, 2), _block(2 * w, 4 * w, 2)
        self.middle = _block(4 * w, 4 * w)
        self.up1, self.up2 = _block(6 * w, 2 * w), _block(3 * w, w)
        self.out = nn.Conv2d(w, folded, 3, 1, 1)
        nn.init.zeros_(self.out.weight)  # it starts as: nothing to undo
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, released_B3HW: Tensor) -> Tensor:
        a = self.stem(nn.functional.pixel_unshuffle(released_B3HW, FOLD))
        b = self.down1(a)
        c = self.down2(b)
        c = c + self.middle(c)
        x = self.up1(torch.cat([nn.functional.interpolate(c, scale_factor=2.0), b], 1))
        x = self.up2(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), a], 1))
        change = nn.functional.pixel_shuffle(self.out(x), FOLD).float()
        weight = self.region.masks(released_B3HW.shape[-1])[1].to(change)
        return (released_B3HW + weight * change).clamp(-1.2, 1.2)


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels_out, channels_out, 3, 1, 1),
        nn.LeakyReLU(0.2),
    )
