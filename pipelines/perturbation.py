"""The universal perturbation on Ray: a named actor holds v, worker actors compute the gradients of its batches.

    the driver  ->  Worker x N       load the networks, release the faces (one object each), compute gradients
                ->  Perturbation     v: asks workers for parts of a batch, reduces, steps, saves, publishes, answers

The maths is training.universal's, so one worker gives the v of the local solver, to the bit. Who dies comes back by
Ray's own means: a worker up to RESTARTS times, its part computed again; the actor as often, from OUT's last v.
Whole runs go on from OUT too. `deepfool` moves v after every face: it runs on one worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.errors import ClusterError
from anonymousnet.pipelines.session import ray_session
from anonymousnet.training import universal
from anonymousnet.training.data import FaceTable
from anonymousnet.training.disturbances import Disturbance
from anonymousnet.training.perturbation import (
    Aim,
    Perturbation,
    aimed,
    chosen,
    judged,
    read_state,
    released,
    run_of,
    save_state,
)
from anonymousnet.training.targets import Target, references
from anonymousnet.training.universal import Plan, Universal
from anonymousnet.weights.versions import publish

NAME, NAMESPACE = "perturbation", "anonymousnet"
RESTARTS = 3
"""How often one worker, or the actor, may die in a run."""
AGAIN = -1
"""Calls are made again until the actor has died for good. Those to a machine that is gone fail within a second, long
before Ray knows that it is gone, so a number of tries would count seconds, not deaths."""
START_S = 180.0
"""Seconds in which all workers must be up, their networks loaded."""
CHUNK = 32
"""Faces that a worker releases at a time."""

Equipment = tuple[Sequence[Target], Anonymizer | None]
Progress = Callable[[Iterable[int], int], Iterable[int]]


def aim_at(aim: Aim) -> Equipment:
    """What a worker needs: the networks to be fooled, and the anonymizer that releases faces."""
    anonymizer = aim.anonymizer()
    return aim.targets(anonymizer), anonymizer


class Worker:
    """Computes on a few faces at a time. `equip` is called in the worker's own process."""

    def __init__(self, equip: Callable[[], Equipment]) -> None:
        self.targets, self.anonymizer = equip()

    def pid(self) -> int:
        """The worker's process; answers once the networks are loaded."""
        return os.getpid()

    def released(self, faces_B3HW: NDArray[np.uint8], rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Released faces (3, H, W), one object each, so that a batch of any rows fetches no others."""
        assert self.anonymizer is not None
        done = released(self.anonymizer, faces_B3HW, rows).numpy()
        return list(done) if len(done) > 1 else done[0]

    def references(self, *faces: NDArray[np.float32]) -> list[Tensor]:
        """What each target says of the clean faces."""
        return references(_stacked(faces), self.targets)

    def gradient(
        self, v: NDArray[np.float32], references: list[Tensor], disturbance: Disturbance, *faces: NDArray[np.float32]
    ) -> tuple[int, NDArray[np.float32], list[int]]:
        """A part of a batch: its number of faces, and `universal.gradient` of it."""
        found, counts = universal.gradient(torch.tensor(v), _stacked(faces), references, self.targets, disturbance)
        return len(faces), found.numpy(), counts

    def deepfool(
        self, v: NDArray[np.float32], references: list[Tensor], plan: Plan, *faces: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], list[int]]:
        """A whole batch of `universal.deepfool`."""
        found, counts = universal.deepfool(torch.tensor(v), _stacked(faces), references, self.targets, plan)
        return found.numpy(), counts


class Holder:
    """Holds v. `run` computes it; `progress` answers meanwhile, from a thread of its own.

    `faces`: a list that holds a reference to the list of references to the faces. All that a restarted holder needs is
    in its arguments and in OUT.
    """

    def __init__(self, plan: Plan, workers: list[Any], faces: list[Any], out: Path, run: dict[str, Any]) -> None:
        self.plan, self.workers, self.faces, self.out, self.made = plan, workers, ray.get(faces[0]), out, run
        self.state = read_state(out, run)
        self.references: list[Tensor] = []

    def run(self) -> Universal:
        """Compute v; save it after every batch, publish it after every epoch.

        Raises ClusterError where a worker died more than RESTARTS times.
        """
        try:
            state = self.state or Universal(torch.zeros(ray.get(self.faces[0]).shape))
            self.references = self._references()
            while state.epochs < self.plan.epochs:
                targets = len(self.references)
                for state in universal.states(state, self.plan, len(self.faces), targets, self._step):  # noqa: B020
                    if state.pending is None:
                        publish(self.out, "universal", {"v": state.v}, self._notes(state))
                    save_state(self.out, state, self.made)  # a millisecond; a batch takes seconds
                    self.state = state
        except RayActorError as error:
            raise ClusterError(
                f"a perturbation worker died more than {RESTARTS} times ({_reason(error)}); "
                f"v is kept in {self.out}: give workers more memory, or fewer of them, and run again"
            ) from error
        return state

    @ray.method(concurrency_group="questions")
    def progress(self) -> dict[str, Any]:
        """How far it is: batches done and in all, whole epochs, rates of the last one, and the actor's process."""
        state, steps = self.state, -(-len(self.faces) // self.plan.batch)
        epochs, step = (state.epochs, state.pending.step if state.pending else 0) if state else (0, 0)
        return {"batches": epochs * steps + step, "of": self.plan.epochs * steps, "epochs": epochs,
                "fooled": state.history[-1] if state and state.history else None, "pid": os.getpid()}  # fmt: skip

    def _notes(self, state: Universal) -> dict[str, Any]:
        return {**self.made, "epochs": state.epochs, "history": state.history}

    def _references(self) -> list[Tensor]:
        """What each target says of every clean face: chunks as in the local solver, spread over the workers."""
        size, n = self.plan.batch, len(self.workers)
        starts = range(0, len(self.faces), size)
        parts = ray.get(
            [self.workers[i % n].references.remote(*self.faces[s : s + size]) for i, s in enumerate(starts)]
        )
        return [torch.cat(of_target) for of_target in zip(*parts, strict=True)]

    def _step(
        self, v: Tensor, rows: NDArray[np.int64], disturbance: Disturbance, left: float
    ) -> tuple[Tensor, list[int]]:
        """One batch, its rows split over the workers; a `universal.Step`."""
        shared = ray.put(v.numpy())
        if self.plan.solver == "deepfool":
            found, counts = ray.get(self.workers[0].deepfool.remote(shared, *self._part(rows, self.plan)))
            return torch.tensor(found), counts
        parts = ray.get([
            worker.gradient.remote(shared, *self._part(part, disturbance))
            for worker, part in zip(self.workers, np.array_split(rows, len(self.workers)), strict=True) if len(part)
        ])  # fmt: skip
        gradient, counts = universal.reduced([(n, torch.tensor(found), counts) for n, found, counts in parts])
        return universal.updated(v, gradient, left, self.plan), counts

    def _part(self, rows: NDArray[np.int64], how: Disturbance | Plan) -> list[Any]:
        return [[of_target[rows] for of_target in self.references], how, *(self.faces[row] for row in rows)]


class Running(NamedTuple):
    """The holder at work."""

    holder: Any
    faces: Any
    """Reference to the list of the faces' references. Kept here: Ray frees what only an actor's arguments refer to, and
    a holder that comes back would look for them in vain (measured)."""
    ended: Any
    """Reference to the final Universal."""

    def stop(self) -> None:
        """End the holder; what was saved stays."""
        ray.kill(self.holder)

    def batches(self) -> Iterator[int]:
        """One number per batch done, as they are done, until the end."""
        done = 0
        while True:
            over = bool(ray.wait([self.ended], timeout=0.5)[0])
            try:
                now = ray.get(self.holder.progress.remote())["batches"]
            except RayActorError:  # it is coming back, or `ended` holds the reason
                now = done
            yield from range(done, now)
            done = max(done, now)
            if over:
                return

    def result(self) -> Universal:
        """The final state. Raises what the actors raised; ClusterError where the holder itself is lost."""
        return cast(Universal, _got(self.ended))


def compute_perturbation(
    config: Config, data: FaceTable, held_out: FaceTable, out: Path, against: tuple[str, ...], plan: Plan, faces: int,
    workers: int, address: str | None, progress: Progress,
) -> Perturbation:  # fmt: skip
    """`training.perturbation.compute_perturbation` with `workers` worker actors on this machine or a cluster.

    Raises ClusterError where no cluster answers, it is too small, another perturbation runs on it, or workers die again
    and again; ConfigError and CheckpointError as the local one.
    """
    aim, made_from = aimed(config, against, held_out), chosen(config, data, faces)
    run = run_of(plan, against, len(made_from))
    read_state(out, run)  # refuses another run's state before anything is started
    with ray_session(address):
        crew = start_workers(lambda: aim_at(aim), workers)
        running = start(plan, crew, release(crew, made_from), out, run)
        try:
            for _ in progress(running.batches(), plan.epochs * -(-len(made_from) // plan.batch)):
                pass
            state = running.result()
        finally:
            running.stop()
            for worker in crew:
                ray.kill(worker)
    targets, anonymizer = aim_at(aim)
    assert anonymizer is not None
    return judged(anonymizer, targets, held_out, state, run, out)


def start_workers(equip: Callable[[], Equipment], n: int) -> list[Any]:
    """N workers, ready. Raises ClusterError where they are not up in START_S seconds."""
    if n < 1:
        raise ClusterError(f"--workers: expected at least 1, got {n}")
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= n else 0
    kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=AGAIN)(Worker)
    workers: list[Any] = [kind.remote(equip) for _ in range(n)]
    try:
        _got([worker.pid.remote() for worker in workers], START_S)
    except GetTimeoutError:
        for worker in workers:
            ray.kill(worker)
        raise ClusterError(
            f"expected {n} workers of one CPU each to be up in {START_S:.0f} s, and they are not (the cluster has "
            f"{ray.cluster_resources().get('CPU', 0):.0f} CPUs); use fewer --workers, or a larger cluster"
        ) from None
    return workers


def release(workers: list[Any], table: FaceTable) -> list[Any]:
    """References to the released faces, one each, computed by the workers."""
    parts = np.array_split(np.arange(len(table)), -(-len(table) // CHUNK))
    done: list[Any] = []
    for i, rows in enumerate(parts):
        asked = workers[i % len(workers)].released.options(num_returns=len(rows))
        found = asked.remote(table.faces_N3HW[rows], rows)
        done += found if len(rows) > 1 else [found]
    return done


def start(plan: Plan, workers: list[Any], faces: list[Any], out: Path, run: dict[str, Any]) -> Running:
    """Start the named holder beside the driver, where OUT is, and let it run.

    Raises ClusterError where this cluster is already at one.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind = ray.remote(  # type: ignore[call-overload]
        num_cpus=0, max_restarts=RESTARTS, max_task_retries=AGAIN, concurrency_groups={"questions": 1}
    )(Holder)
    kept = ray.put(faces)
    try:
        holder = kind.options(name=NAME, namespace=NAMESPACE, scheduling_strategy=here).remote(
            plan, workers, [kept], out.resolve(), run
        )
    except ValueError as error:
        raise ClusterError(
            f"this cluster is already computing a perturbation (actor '{NAME}'); wait for it, or end it"
        ) from error
    return Running(holder, kept, holder.run.remote())


def _got(references: Any, timeout: float | None = None) -> Any:
    """`ray.get`, where errors raised on purpose arrive as they were raised, and lost actors as a ClusterError."""
    try:
        return ray.get(references, timeout=timeout)
    except RayTaskError as error:
        cause: Exception = error
        while isinstance(cause, RayTaskError):  # an error of a worker comes through the holder
            cause = cause.cause
        raise cause from error
    except RayActorError as error:
        raise ClusterError(
            f"an actor of the perturbation is lost ({_reason(error)}); what was saved is kept: run again"
        ) from error


def _reason(error: RayActorError) -> str:
    """One line of Ray's many: the error where the actor could not be made, else how it ended."""
    lines = str(error).strip().splitlines()
    return lines[-1] if "creation task" in lines[0] else lines[0]


def _stacked(faces: Sequence[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(faces))
