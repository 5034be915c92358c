"""DeepSpeed behind the training seam: ZeRO 0 to 3, gradients averaged over the workers of torch.distributed.

Its states are the plain engine's: whole tensors by name, gathered from all workers. So a checkpoint of N workers goes
on with M, at another ZeRO stage, or in the plain local trainer. What is trained here fits one machine many times over;
for networks that do not, DeepSpeed's own sharded checkpoints would be the way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anonymousnet.training.engine import flat_state, load_module, optimizer_slots, update_average


def prepare(device: torch.device) -> None:
    """Make DeepSpeed ready in this process, on the process group that is already there."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # building it takes a minute
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)


class DeepSpeedEngine:
    """One network under ZeRO stage `stage`. `state`, `load` and (at stage 3) `step` are collective: all workers call
    them, in the same order."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, ema: float, stage: int, batch: int) -> None:
        import deepspeed

        self.module, self.ema, self.stage = module, ema, stage
        # Numbered as the plain engine's checkpoints number them.
        self._parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self._average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self._steps = 0
        settings = {
            "train_micro_batch_size_per_gpu": batch, "gradient_clipping": 0.0, "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": stage}, "steps_per_print": 1 << 62,
        }  # fmt: skip
        self._engine, *_ = deepspeed.initialize(
            model=module, model_parameters=self._parameters, optimizer=optimizer, config=settings,
            dist_init_required=False,
        )  # fmt: skip

    def set_lr(self, lr: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def step(self, loss: Tensor) -> None:
        self._engine.backward(loss)
        self._engine.step()
        self._steps += 1
        update_average(self._average, self._whole(), self.ema, self._steps)

    def averaged(self) -> dict[str, Tensor]:
        return self._average

    def state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        slots: dict[int, dict[str, Any]] = {}
        if names := self._slot_names():
            self._link()
            for index, parameter in enumerate(self._parameters):
                if self.stage == 0:
                    slots[index] = dict(self._optimizer.state[parameter])
                    continue
                slots[index] = {name: safe_get_full_optimizer_state(parameter, name) for name in names}
                slots[index]["step"] = torch.tensor(float(self._steps))
        return flat_state(self._whole(), self._average, slots, self._steps)

    def load(self, state: Mapping[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        self._load_parameters(state)
        slots = optimizer_slots(state)
        if not slots:
            return
        if self.stage == 0:
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": slots})
            return
        names = [name for name in slots[0] if name != "step"]
        self._make_slots(names)
        for index, parameter in enumerate(self._parameters):
            for name in names:
                safe_set_full_optimizer_state(parameter, slots[index][name], name)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that DeepSpeed wraps."""
        inner: torch.optim.Optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        return inner

    def _whole(self) -> dict[str, Tensor]:
        """The network's state, whole on every worker."""
        if self.stage < 3:
            return self.module.state_dict()
        from deepspeed.utils import safe_get_full_fp32_param

        parameters: dict[str, Any] = dict(self.module.named_parameters())  # DeepSpeed adds to them
        whole = {name: safe_get_full_fp32_param(p).view(p.ds_shape) for name, p in parameters.items()}
        return whole | dict(self.module.named_buffers())

    def _load_parameters(self, state: Mapping[str, Tensor]) -> None:
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param

        with deepspeed.zero.GatheredParameters(self._parameters, modifier_rank=0, enabled=self.stage == 3):
            self._steps = load_module(self.module, self._average, state)
        if self.stage:  # the optimizer steps a copy of its own
            for name, parameter in self.module.named_parameters():
                safe_set_full_fp32_param(parameter, state[f"module.{name}"])

    def _slot_names(self) -> list[str]:
        """What the optimizer keeps of every parameter (Adam: exp_avg, exp_avg_sq), once it has stepped."""
        held: Mapping[str, Any] = next(iter(self._optimizer.state.values()), {})
        return [name for name, value in held.items() if torch.is_tensor(value) and value.ndim]

    def _make_slots(self, names: Sequence[str]) -> None:
        """Adam makes its states in its first step: make them before, so that there is something to load into."""
        zero = self._engine.optimizer
        flat = zero.single_partition_of_fp32_groups if self.stage < 3 else zero.fp32_partitioned_groups_flat
        for partition in flat:
            slots = {name: torch.zeros_like(partition) for name in names}
            self._optimizer.state[partition] = {"step": torch.tensor(float(self._steps)), **slots}
        self._link()

    def _link(self) -> None:
        """Show DeepSpeed where the states lie. By itself it does so after stepping the first of several groups, when
        the others have none yet."""
        if self.stage in (1, 2):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
