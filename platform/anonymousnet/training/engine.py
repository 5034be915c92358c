"""Engine: step a loss, average gradients, save and load. The seam between training tasks and what drives them.

`TorchEngine` is plain torch on one machine; pipelines/ has one of the same shape over DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anonymousnet.errors import CheckpointError


class Engine(Protocol):
    """Owns one network while it is trained."""

    module: nn.Module
    """The raw network: scores that are only differentiated through, penalties and validation go through it."""

    def set_lr(self, lr: float) -> None:
        """Learning rate of the coming steps."""

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

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        update_average(self._average, self.module.state_dict(), self.ema, self._steps)

    def averaged(self) -> dict[str, Tensor]:
        return self._average

    def state(self) -> dict[str, Tensor]:
        return flat_state(self.module.state_dict(), self._average, self.optimizer.state_dict()["state"], self._steps)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._steps = load_module(self.module, self._average, state)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": optimizer_slots(state)})


def update_average(average: dict[str, Tensor], current: Mapping[str, Tensor], ema: float, steps: int) -> None:
    """Move an average (in place) towards the network's state after its `steps`-th step."""
    # Short averages first: the random start would otherwise linger for 1 / (1 - ema) steps.
    decay = min(ema, steps / (steps + 10))
    for name, value in current.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def flat_state(
    module: Mapping[str, Tensor], average: Mapping[str, Tensor], slots: Mapping[int, Mapping[str, Any]], steps: int
) -> dict[str, Tensor]:
    """What every engine's `state` returns, so that each reads the others' checkpoints: `module.NAME`, `average.NAME`,
    `optimizer.INDEX.SLOT` (parameters numbered as the optimizer holds them), `steps`."""
    flat = {f"module.{k}": v for k, v in module.items()} | {f"average.{k}": v for k, v in average.items()}
    for index, values in slots.items():
        flat |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    flat["steps"] = torch.tensor(steps)
    return {k: v.detach().contiguous() for k, v in flat.items()}


def load_module(module: nn.Module, average: dict[str, Tensor], state: Mapping[str, Tensor]) -> int:
    """Load a flat state into a network and its average; returns the steps taken.

    Raises CheckpointError when the state is another architecture's.
    """
    try:
        module.load_state_dict(_under("module.", state))
        for name, value in _under("average.", state).items():
            average[name].copy_(value)
        return int(state["steps"])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint is of another architecture ({str(error).splitlines()[0]}); "
            "resume with the settings it was made with, or choose another --out"
        ) from error


def optimizer_slots(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Parameter number -> slot -> values, of a flat state."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", state).items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value.clone()
    return slots


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
