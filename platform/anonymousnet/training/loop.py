"""`train` is the story: seed, resume, step, log, checkpoint, validate, export.

Everything random in step n is drawn from (seed, n): a run that was killed and started again goes through exactly the
losses of an uninterrupted one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from anonymousnet.config import Config, TrainConfig
from anonymousnet.device import arithmetic, autocast, to_device
from anonymousnet.errors import AnonymousNetError
from anonymousnet.training.checkpoint import load_checkpoint, save_checkpoint
from anonymousnet.training.data import FaceTable, rows_of_step
from anonymousnet.training.engine import Engine, TorchEngine, set_lr
from anonymousnet.training.task import Task

LOG_EVERY = 20


class TrainingDiverged(AnonymousNetError):
    """A loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run ended with."""

    steps: int
    losses: dict[str, float]
    """Scalars of the last step."""
    scores: dict[str, float]
    """Validation of the averaged weights."""
    weights: Path
    seconds: float


def train(
    kind: type[Task], config: Config, data: FaceTable, held_out: FaceTable, out: Path, quiet: bool = False
) -> Result:
    """Train one task to its last step, going on from OUT's newest checkpoint, and export its weights to OUT/weights."""
    out.mkdir(parents=True, exist_ok=True)
    settings = config.train.over(kind.defaults)
    device, dtype = arithmetic(config.device, config.precision)
    torch.manual_seed(config.seed)
    task = kind(settings, data)
    networks = {name: to_device(net, device) for name, net in task.networks().items()}
    optimizers = {name: task.optimizer(net) for name, net in networks.items()}
    engines: dict[str, Engine] = {
        name: TorchEngine(net, optimizers[name], settings.ema or 0.0) for name, net in networks.items()
    }
    run = {"task": kind.name, "seed": config.seed, "dtype": str(dtype), "faces": len(data), **_shape(settings)}
    first = load_checkpoint(out, engines, run)
    steps, batch = settings.steps or 1, settings.batch or 2
    started, losses = time.monotonic(), dict[str, float]()
    with SummaryWriter(str(out / "tensorboard"), purge_step=first) as board, _Log(out / "losses.jsonl", first) as log:
        for step in tqdm(
            range(first, steps), kind.name, steps, initial=first, unit="step", disable=quiet, mininterval=5
        ):
            torch.manual_seed(_mix(config.seed, step))
            rows = rows_of_step(config.seed, step, batch, len(data))
            set_lr(optimizers.values(), task.lr(step))
            with autocast(device, dtype):
                parts = task.train_step(data.batch(rows, device), engines, step)
            last = step + 1 == steps
            if last or step % LOG_EVERY == 0:
                losses = log.write(step, parts)
                for name, value in losses.items():
                    board.add_scalar(f"train/{name}", value, step)
            if last or (step + 1) % settings.checkpoint_every == 0:
                save_checkpoint(out, step + 1, engines, run)
            if (step + 1) % settings.validate_every == 0 and not last:
                _validate(task, engines, held_out, board, step + 1, out, (device, dtype))
        scores = _validate(task, engines, held_out, board, steps, out, (device, dtype))
    seconds = time.monotonic() - started
    notes = {"task": kind.name, "seed": config.seed, "faces": len(data), **_shape(settings), "scores": scores}
    task.export(_averaged(engines), out / "weights", notes)
    return Result(steps, losses, scores, out / "weights", seconds)


def _shape(settings: TrainConfig) -> dict[str, Any]:
    """The settings a resumed run must share with the checkpoint's."""
    return settings.model_dump(include={"steps", "batch", "lr", "ema", "px", "width"})


def _mix(seed: int, step: int) -> int:
    """A seed for one step; neighbouring steps and seeds share nothing (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 1


def _averaged(engines: Mapping[str, Engine]) -> dict[str, nn.Module]:
    """Copies of the networks with their averaged weights, in evaluation mode."""
    import copy

    nets = {}
    for name, engine in engines.items():
        net = copy.deepcopy(engine.module)
        net.load_state_dict(engine.averaged())
        nets[name] = net.eval().requires_grad_(False)
    return nets


def _validate(
    task: Task,
    engines: Mapping[str, Engine],
    held_out: FaceTable,
    board: SummaryWriter,
    step: int,
    out: Path,
    where: tuple[torch.device, torch.dtype],
) -> dict[str, float]:
    """Score and picture the averaged networks; nothing here touches the training's randomness."""
    nets = _averaged(engines)
    with torch.no_grad(), autocast(*where), torch.random.fork_rng():
        torch.manual_seed(0)
        scores = task.validate(nets, held_out)
        picture = task.samples(nets, held_out)
    for name, value in scores.items():
        board.add_scalar(f"validation/{name}", value, step)
    if picture is not None:
        unit = ((picture.float().cpu() + 1) / 2).clamp(0, 1)
        board.add_image("samples", unit, step)
        _save_png(unit, out / "samples" / f"{step:08d}.png")
    with (out / "scores.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **scores}) + "\n")
    return scores


def _save_png(unit_3HW: Tensor, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray((unit_3HW.permute(1, 2, 0) * 255).byte().numpy()).save(path)


class _Log:
    """losses.jsonl: a line per logged step. A resumed run drops the lines past its checkpoint."""

    def __init__(self, path: Path, first: int) -> None:
        kept = []
        if path.exists():
            kept = [
                line
                for line in path.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["step"] < first
            ]
        path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, step: int, parts: Mapping[str, Tensor]) -> dict[str, float]:
        losses = {name: float(value) for name, value in parts.items()}
        bad = [name for name, value in losses.items() if value != value]
        if bad:
            raise TrainingDiverged(
                f"step {step}: {', '.join(bad)} is not a number; lower train.lr or set precision to fp32"
            )
        self._file.write(json.dumps({"step": step, **losses}) + "\n")
        self._file.flush()
        return losses
