"""How well a perturbation fools, on faces it was not made from: against its size, and after what the world does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anonymousnet.training.disturbances import WORLD
from anonymousnet.training.targets import Target, fooling_rates, references


def noise_like(v: Tensor, seed: int = 0) -> Tensor:
    """Random signs of v's size wherever v is not 0: the baseline that every fooling rate stands beside."""
    signs = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, tuple(v.shape))).to(v) * 2 - 1
    return signs * v.abs().max() * (v != 0)


def fooling_curve(
    unit_v: Tensor, faces: Tensor, targets: Sequence[Target], epsilons: Sequence[float]
) -> list[dict[str, Any]]:
    """For each epsilon: the fooling rates of v scaled to it, and of random signs of the same size."""
    clean = references(faces, targets)
    return [
        {
            "epsilon": epsilon,
            "fooled": fooling_rates(unit_v * 2 * epsilon, faces, targets, clean=clean),
            "noise": fooling_rates(noise_like(unit_v * 2 * epsilon), faces, targets, clean=clean),
        }
        for epsilon in epsilons
    ]


def robustness(unit_v: Tensor, faces: Tensor, targets: Sequence[Target], epsilon: float) -> list[dict[str, Any]]:
    """For each disturbance of the world: the rates of v at `epsilon` after it, and of random signs of the same size.

    The clean answer is that for the undisturbed face, so what the disturbance does by itself shows in `noise`.
    """
    v, clean = unit_v * 2 * epsilon, references(faces, targets)
    return [
        {
            "after": name,
            "fooled": fooling_rates(v, faces, targets, world=world, clean=clean),
            "noise": fooling_rates(noise_like(v), faces, targets, world=world, clean=clean),
        }
        for name, world in WORLD.items()
    ]
