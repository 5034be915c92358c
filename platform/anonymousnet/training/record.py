"""What a run writes down as it goes: losses.jsonl, scores.jsonl, sample pictures, and the same for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from anonymousnet.errors import AnonymousNetError


class TrainingDiverged(AnonymousNetError):
    """A loss is no longer a number."""


class Record:
    """The records of one run in OUT. A resumed run drops the lines past its checkpoint."""

    def __init__(self, out: Path, first: int) -> None:
        self.out = out
        for name, end in (("losses", first), ("scores", first + 1)):
            path = out / f"{name}.jsonl"
            path.write_text("".join(line + "\n" for line in _lines(path) if json.loads(line)["step"] < end))
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def losses(self, step: int, parts: Mapping[str, float]) -> dict[str, float]:
        """Note one step's scalars. Raises TrainingDiverged where one is not a number."""
        check_finite(step, parts)
        self._append("losses", step, parts)
        return dict(parts)

    def scores(self, step: int, scores: Mapping[str, float], picture: Tensor | None) -> dict[str, float]:
        """Note a validation and its picture (3HW in [-1, 1])."""
        self._append("scores", step, scores)
        if picture is not None:
            unit = ((picture.float().cpu() + 1) / 2).clamp(0, 1)
            self._board.add_image("samples", unit, step)
            path = self.out / "samples" / f"{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((unit.permute(1, 2, 0) * 255).byte().numpy()).save(path)
        return dict(scores)

    def _append(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._board.add_scalar(f"{name}/{key}", value, step)
        with (self.out / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def check_finite(step: int, parts: Mapping[str, float]) -> None:
    """Raises TrainingDiverged where a scalar is not a number."""
    bad = [name for name, value in parts.items() if value != value]
    if bad:
        raise TrainingDiverged(
            f"step {step}: {', '.join(bad)} is not a number; lower train.lr or set precision to fp32"
        )


def _lines(path: Path) -> list[str]:
    """Whole lines: a killed run may have left half of one."""
    return [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
