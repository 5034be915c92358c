"""`train` is the story: seed, resume, step, log, checkpoint, validate, export.

Everything random in step n is drawn from (seed, n): a run that was killed and started again goes through exactly the
losses of an uninterrupted one. pipelines/ tells the same story over many workers, with the same `take_step`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from anonymousnet.config import Config, TrainConfig
from anonymousnet.device import arithmetic, autocast, to_device
from anonymousnet.training.checkpoint import load_checkpoint, save_checkpoint
from anonymousnet.training.data import Batch, FaceTable, rows_of_step
from anonymousnet.training.engine import Engine, TorchEngine
from anonymousnet.training.record import Record
from anonymousnet.training.task import Task

LOG_EVERY = 20

Where = tuple[torch.device, torch.dtype]


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
    where = arithmetic(config.device, config.precision)
    task, engines = build(kind, config.seed, settings, data, where)
    run = fingerprint(kind, config, settings, len(data), where)
    first = load_checkpoint(out, engines, run)
    steps, batch = settings.steps or 1, settings.batch or 2
    started, losses = time.monotonic(), dict[str, float]()
    epoch = np.arange(len(data)) if data.files else task.epoch(data)
    with Record(out, first) as record:
        for step in tqdm(
            range(first, steps), kind.name, steps, initial=first, unit="step", disable=quiet, mininterval=5
        ):
            rows = epoch[rows_of_step(config.seed, step, batch, len(epoch), data.files)]
            parts = take_step(task, engines, data.batch(rows, where[0]), step, config.seed, where)
            last = step + 1 == steps
            if last or step % LOG_EVERY == 0:
                losses = record.losses(step, {name: float(value) for name, value in parts.items()})
            if last or (step + 1) % settings.checkpoint_every == 0:
                save_checkpoint(out, step + 1, {name: engine.state() for name, engine in engines.items()}, run)
            if (step + 1) % settings.validate_every == 0 and not last:
                record.scores(step + 1, *validate(task, averaged(engines), held_out, where))
        nets = averaged(engines)
        scores = record.scores(steps, *validate(task, nets, held_out, where))
    seconds = time.monotonic() - started
    task.export(nets, out / "weights", {**run, "scores": scores})
    return Result(steps, losses, scores, out / "weights", seconds)


def build(
    kind: type[Task], seed: int, settings: TrainConfig, data: FaceTable, where: Where
) -> tuple[Task, dict[str, Engine]]:
    """The task and its networks, each in a plain engine."""
    torch.manual_seed(seed)
    task = kind(settings, data.contents)
    networks = {name: to_device(net, where[0]) for name, net in task.networks().items()}
    return task, {name: TorchEngine(net, task.optimizer(net), settings.ema or 0.0) for name, net in networks.items()}


def take_step(
    task: Task, engines: Mapping[str, Engine], batch: Batch, step: int, seed: int, where: Where
) -> dict[str, Tensor]:
    """One update of every network; returns the step's scalars."""
    torch.manual_seed(_mix(seed, step))
    for engine in engines.values():
        engine.set_lr(task.lr(step))
    with autocast(*where):
        return task.train_step(batch, engines, step)


def fingerprint(kind: type[Task], config: Config, settings: TrainConfig, faces: int, where: Where) -> dict[str, Any]:
    """What a resumed run must share with its checkpoint; the card's facts as well."""
    shape = settings.model_dump(include={"steps", "batch", "lr", "ema", "px", "width", "region"})
    return {"task": kind.name, "seed": config.seed, "dtype": str(where[1]), "faces": faces, **shape}


def averaged(engines: Mapping[str, Engine]) -> dict[str, nn.Module]:
    """Copies of the networks with their averaged weights, in evaluation mode."""
    nets = {}
    for name, engine in engines.items():
        net = copy.deepcopy(engine.module)
        net.load_state_dict(engine.averaged())
        nets[name] = net.eval().requires_grad_(False)
    return nets


def validate(
    task: Task, networks: Mapping[str, nn.Module], held_out: FaceTable, where: Where
) -> tuple[dict[str, float], Tensor | None]:
    """Score and picture the averaged networks; nothing here touches the training's randomness."""
    with torch.no_grad(), autocast(*where), torch.random.fork_rng():
        torch.manual_seed(0)
        return task.validate(networks, held_out), task.samples(networks, held_out)


def _mix(seed: int, step: int) -> int:
    """A seed for one step; neighbouring steps and seeds share nothing (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) >> 1
