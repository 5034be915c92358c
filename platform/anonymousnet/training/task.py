"""Task: what one network's training is made of. `loop.train` drives it; another engine, many machines."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.config import TrainConfig
from anonymousnet.errors import ConfigError, WeightsError
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine

Net = TypeVar("Net", bound=nn.Module)


class Task(ABC):
    """One training task: its networks, its step, its validation."""

    name: ClassVar[str]
    """What the command line calls it."""
    weights: ClassVar[str]
    """Name of the weights it produces."""
    defaults: ClassVar[dict[str, Any]]
    """Its own defaults for TrainConfig."""
    max_zero_stage: ClassVar[int] = 3
    """Highest DeepSpeed ZeRO stage it can be trained with."""
    batch_multiple: ClassVar[int] = 1
    """What a worker's share of a batch must be a multiple of."""
    px_multiple: ClassVar[int] = 32
    """What the side of its faces must be a multiple of: its network halves them that often."""
    labels: ClassVar[str | None] = None
    """The file beside CelebA's images with the 68 landmarks that every face of it needs."""
    large: ClassVar[bool] = False
    """Whether it trains on the faces of photos as taken where `px` is more than aligned ones have."""
    slack: ClassVar[bool] = False
    """Whether it wants what aligned images show above and below the crop: the faces of its table are higher then."""

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        self.config = config
        if (config.px or 0) % self.px_multiple:
            raise ConfigError(f"train.px: {self.name} expects a multiple of {self.px_multiple}, got {config.px}")
        if (config.batch or 0) % self.batch_multiple:
            raise ConfigError(
                f"train.batch: {self.name} expects a multiple of {self.batch_multiple}, got {config.batch}"
            )

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The networks to train, by name; called once, after the seed was set."""

    def started(self, network: Net) -> Net:
        """The network with every tensor that it shares, by name and shape, with the weights `train.start` names.

        Raises WeightsError when it shares none, or the weights cannot be read.
        """
        if self.config.start is None:
            return network
        found, own = weights.read(self.config.start), network.state_dict()
        shared = {k: v.float() for k, v in found.tensors.items() if k in own and own[k].shape == v.shape}
        if not shared:
            raise WeightsError(
                f"train.start: expected weights that share tensors with task {self.name}, {self.config.start} "
                f"({found.network}) shares none; train.width and train.px must be those it was made with"
            )
        network.load_state_dict({**own, **shared})
        return network

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam with decoupled weight decay on matrices alone."""
        decayed = [p for p in network.parameters() if p.ndim > 1]
        plain = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.config.lr or 1e-3)

    def lr(self, step: int) -> float:
        """Learning rate at a step: a short ramp, then half a cosine down to 1 % (Loshchilov & Hutter, ICLR 2017)."""
        steps, peak = self.config.steps or 1, self.config.lr or 1e-3
        ramp = min(1.0, (step + 1) / max(1, min(200, steps // 10)))
        return peak * ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

    @abstractmethod
    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        """One update of every network. Returns losses and other scalars (detached). Randomness: torch's global
        generator, which the loop seeds from (seed, step)."""

    def epoch(self, data: FaceTable) -> NDArray[np.int64]:
        """The rows of one epoch, each as often as the epoch draws it: here every row once.

        Shards are not asked: an epoch reads each of their rows once, on one worker or many.
        """
        return np.arange(len(data))

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        """Scores of the averaged networks on held-out faces."""
        return {}

    def samples(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> Tensor | None:
        """A picture (3HW in [-1, 1]) of what the averaged networks do, or None."""
        return None

    @abstractmethod
    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        """Write the shippable weights of the averaged networks into `folder`."""
