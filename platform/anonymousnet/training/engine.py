"""Engine: step a loss, average gradients, save and load. The seam between training tasks and what drives them.

`TorchEngine` is plain torch on one machine; pipelines/ has one of the same shape over DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anonymousnet.errors import CheckpointError


class Engine(Protocol):
    """Owns one network while it is trained."""

    module: nn.Module
    """The raw network: scores that are only differentiated through, penalties and validation go through it."""

    def step(self, loss: Tensor) -> None:
        """Backward from `loss` into this network alone, average over workers, update, clear gradients."""

    def state(self) -> dict[str, Tensor]:
        """All that resuming needs, as flat named tensors."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""

    def averaged(self) -> dict[str, Tensor]:
        """The network's state with averaged (EMA) weights: what is validated and shipped."""


class TorchEngine:
    """One network, one optimizer, one average, in this process."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, ema: float) -> None:
        self.module = module
        self.optimizer = optimizer
        self.ema = ema
        self._average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self._steps = 0

    def step(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()

    def _update_average(self) -> None:
        self._steps += 1
        # Short averages first: the random start would otherwise linger for 1 / (1 - ema) steps.
        decay = min(self.ema, self._steps / (self._steps + 10))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def averaged(self) -> dict[str, Tensor]:
        return self._average

    def state(self) -> dict[str, Tensor]:
        flat = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        flat |= {f"average.{k}": v for k, v in self._average.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            flat |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        flat["steps"] = torch.tensor(self._steps)
        return {k: v.detach().contiguous() for k, v in flat.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        try:
            self.module.load_state_dict(_under("module.", state))
            self._steps = int(state["steps"])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint is of another architecture ({str(error).splitlines()[0]}); "
                "resume with the settings it was made with, or choose another --out"
            ) from error
        for name, value in _under("average.", state).items():
            self._average[name].copy_(value)
        slots: dict[int, dict[str, Any]] = {}
        for name, value in _under("optimizer.", state).items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = value.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set one learning rate everywhere."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
