"""What each training worker does: the plain loop's steps, on its share of every batch, under DeepSpeed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from anonymousnet import draw
from anonymousnet.config import Config
from anonymousnet.device import arithmetic, threads
from anonymousnet.errors import AnonymousNetError
from anonymousnet.pipelines.batchnorm import shared_batch_norms
from anonymousnet.pipelines.deepspeed_engine import DeepSpeedEngine, prepare
from anonymousnet.pipelines.feed import Slice, feed
from anonymousnet.pipelines.home import Home
from anonymousnet.training.checkpoint import load_checkpoint, save_checkpoint
from anonymousnet.training.loop import LOG_EVERY, Where, fingerprint, take_step, validate
from anonymousnet.training.record import Record, check_finite
from anonymousnet.training.source import Source
from anonymousnet.training.task import Task

HELD_OUT = 2000
"""Faces that a validation looks at, at most."""


@dataclass(frozen=True)
class Job:
    """One run, as every worker is handed it."""

    kind: type[Task]
    config: Config
    data: Source
    held_out: Source
    home: Home
    progress: Any
    """Handle of the driver's Progress actor."""


@ray.remote(num_cpus=0)
class Progress:
    """Where a run is: workers tell, the driver asks."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {"step": 0, "beat": time.time()}
        self._error: AnonymousNetError | None = None

    def tell(self, **what: Any) -> None:
        self._state |= {**what, "beat": time.time()}

    def fail(self, error: AnonymousNetError) -> None:
        self._error = error

    def ask(self) -> tuple[dict[str, Any], AnonymousNetError | None, float]:
        """What was told last, an error that no new attempt would mend, seconds since anyone told anything."""
        return self._state, self._error, time.time() - self._state["beat"]


def work(settings: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`."""
    job: Job = settings["job"]
    if dist.get_backend() == "gloo":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(threads())
    try:
        _Worker(job).run()
    except AnonymousNetError as error:  # all workers come to it alike, and would again: no other attempt
        ray.get(job.progress.fail.remote(error))
    finally:
        job.home.close()


class _Worker:
    """One process of the run."""

    def __init__(self, job: Job) -> None:
        from ray.train import get_context  # loaded already, where this runs

        context = get_context()
        self.job, self.rank, self.workers = job, context.get_world_rank(), context.get_world_size()
        self.settings = job.config.train.over(job.kind.defaults)
        device, dtype = arithmetic(job.config.device, job.config.precision)
        if device.type == "cuda":
            torch.cuda.set_device(context.get_local_rank())
            device = torch.device("cuda", context.get_local_rank())
        self.where: Where = (device, dtype)
        prepare(device)
        self.task, self.engines = self._build()

    def _build(self) -> tuple[Task, dict[str, DeepSpeedEngine]]:
        """As `loop.build`, every network under DeepSpeed and every batch norm shared."""
        torch.manual_seed(self.job.config.seed)
        task = self.job.kind(self.settings, self.job.data.contents)
        engines = {}
        for name, net in task.networks().items():
            # Not channels last: DeepSpeed keeps weights in flat buffers, and copies no other order into them.
            placed = net.to(self.where[0])
            if self.workers > 1:
                placed = shared_batch_norms(placed, self.where[0])
            engines[name] = DeepSpeedEngine(
                placed, task.optimizer(placed), self.settings.ema or 0.0, self.job.config.scale.zero,
                (self.settings.batch or 2) // self.workers,
            )  # fmt: skip
        return task, engines

    def run(self) -> None:
        """All steps from the newest checkpoint on."""
        job, steps, out = self.job, self.settings.steps or 1, self.job.home.open()
        run = fingerprint(job.kind, job.config, self.settings, job.data.contents.faces, self.where)
        first = load_checkpoint(out, self.engines, run)
        self._tell(step=first, workers=self.workers)
        if self.rank:
            self._steps(first, steps, None, run)
            return
        with Record(out, first) as record:
            self._steps(first, steps, record, run)
            scores = record.scores(steps, *self._validation().scores())
        nets = self._averaged()
        self.task.export(nets, out / "weights", {**run, "scores": scores})
        job.home.push()
        self._tell(step=steps, scores=scores)

    def _steps(self, first: int, steps: int, record: Record | None, run: Mapping[str, Any]) -> None:
        batch, seed, pending = self.settings.batch or 2, self.job.config.seed, dict[int, _Validation]()
        part = Slice(seed, batch, first, steps, self.rank, self.workers)
        stream = feed(self.job.data, part, self.where[0], self.job.progress)
        with draw.share(self.rank, self.workers):
            for step, faces in enumerate(stream, first):
                parts = take_step(self.task, self.engines, faces, step, seed, self.where)
                last = step + 1 == steps
                self._tell(step=step + 1)
                if last or step % LOG_EVERY == 0:
                    self._log(step, parts, record)
                if last or (step + 1) % self.settings.checkpoint_every == 0:
                    self._checkpoint(step + 1, run)
                if record and not last and (step + 1) % self.settings.validate_every == 0:
                    pending[step + 1] = self._validation()  # by another process: nobody waits for it
                _collect(pending, record)
        _collect(pending, record, wait=True)

    def _log(self, step: int, parts: Mapping[str, Tensor], record: Record | None) -> None:
        names = sorted(parts)
        values = torch.stack([parts[name].detach().double().reshape(()) for name in names])
        dist.all_reduce(values)
        losses = dict(zip(names, (values / self.workers).tolist(), strict=True))
        check_finite(step, losses)
        if record:
            record.losses(step, losses)
        self._tell(losses=losses)

    def _checkpoint(self, step: int, run: Mapping[str, Any]) -> None:
        states = {name: engine.state() for name, engine in self.engines.items()}  # all workers give their part
        if self.rank == 0:
            save_checkpoint(self.job.home.local, step, states, run)
            self.job.home.push()

    def _averaged(self) -> dict[str, torch.nn.Module]:
        """Plain networks, on the CPU, with the averaged weights."""
        nets = self.task.networks()
        for name, net in nets.items():
            net.load_state_dict({key: value.cpu() for key, value in self.engines[name].averaged().items()})
            net.eval().requires_grad_(False)
        return nets

    def _validation(self) -> _Validation:
        job = self.job
        states = {name: engine.averaged() for name, engine in self.engines.items()}
        numpy = {name: {k: v.cpu().numpy().copy() for k, v in state.items()} for name, state in states.items()}
        return _Validation((job.kind, job.config, job.data.contents, job.held_out, numpy))

    def _tell(self, **what: Any) -> None:
        """Every worker's process number is told, and who is first tells the rest."""
        self.job.progress.tell.remote(**(what if self.rank == 0 else {}), **{f"pid{self.rank}": os.getpid()})


Scores = tuple[dict[str, float], Tensor | None]


class _Validation:
    """Scores of averaged weights, found by a process of their own while the run goes on; where it cannot be had, such
    as on a machine whose disk is full, by this one in the end."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._arguments, self._answer = arguments, ray.remote(num_cpus=1, max_retries=1)(_score).remote(*arguments)

    def ready(self) -> bool:
        """Whether `scores` has not to wait for the process."""
        return bool(ray.wait([self._answer], timeout=0)[0])

    def scores(self) -> Scores:
        """The scores. Raises what scoring raised."""
        try:
            scores: Scores = ray.get(self._answer)
            return scores
        except RayTaskError:
            raise
        except RayError:
            with draw.share(0, 1):  # all rows are its own
                return _score(*self._arguments)


def _score(
    kind: type[Task], config: Config, contents: Any, held_out: Source, states: Mapping[str, Mapping[str, Any]]
) -> Scores:
    task = kind(config.train.over(kind.defaults), contents)
    nets = task.networks()
    for name, net in nets.items():
        net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in states[name].items()})
        net.eval().requires_grad_(False)
    table = held_out.table()
    where = (torch.device("cpu"), arithmetic("cpu", config.precision)[1])
    return validate(task, nets, table.take(np.arange(min(HELD_OUT, len(table)))), where)


def _collect(pending: dict[int, _Validation], record: Record | None, wait: bool = False) -> None:
    """Write down the validations that are done."""
    for step, validation in list(pending.items()):
        if record and (wait or validation.ready()):
            record.scores(step, *pending.pop(step).scores())
