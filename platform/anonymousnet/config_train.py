"""Settings of training, on one machine or many."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from anonymousnet.config_section import Section
from anonymousnet.data.attributes import RegionName


class TrainConfig(Section):
    """What every training task shares; null means the task's own default (`anonymousnet train TASK --help`)."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps of the whole run."""
    batch: int | None = Field(None, ge=2)
    """Faces per step."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate."""
    ema: float | None = Field(None, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; 0 switches it off."""
    px: int | None = Field(None, ge=32, le=512, multiple_of=16)
    """Side of the faces the network works on, in pixels."""
    width: int | None = Field(None, ge=4, le=512)
    """Channels of the network's first layer."""
    region: RegionName = "face"
    """What a generator learns to paint."""
    start: str | None = None
    """Weights to start from, by name or path: all tensors that the networks share with them; null: from scratch."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints."""
    validate_every: int = Field(1000, ge=1)
    """Steps between validations and sample grids."""

    def over(self, defaults: dict[str, Any]) -> TrainConfig:
        """These settings, with nulls filled from a task's defaults.

        Where `batch` is set and `lr` is not, the learning rate grows with the batch's square root, as Adam wants it
        (Malladi et al., NeurIPS 2022). `batch` counts the faces of all workers: more workers change no curve.
        """
        given = self.model_dump(exclude_none=True, exclude_unset=True)
        if "batch" in given and "lr" not in given and "lr" in defaults:
            defaults = {**defaults, "lr": defaults["lr"] * (given["batch"] / defaults["batch"]) ** 0.5}
        return TrainConfig.model_validate({**defaults, **given})


class ScaleConfig(Section):
    """Training over many workers: Ray Train drives them, DeepSpeed averages them."""

    workers: int | None = Field(None, ge=1)
    """Training processes; null: this process alone, without Ray."""
    gpus_per_worker: float = Field(0, ge=0)
    """GPUs that each worker holds; 0 trains on CPUs (gloo instead of NCCL)."""
    nodes: int = Field(1, ge=1)
    """Fewest machines to begin with; workers are spread over them."""
    zero: int = Field(1, ge=0, le=3)
    """DeepSpeed ZeRO stage: 1 shares out optimizer states, 2 gradients too, 3 weights too."""
    failures: int = Field(3, ge=0)
    """How often workers may die before the run ends; what is trained stays in the checkpoints."""
    deadline_s: float = Field(900, gt=0)
    """Longest wait for machines, and between two steps, in seconds; then the run ends with an error."""
