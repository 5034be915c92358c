"""`train` over many workers: Ray Train starts them, again where they die, and an own deadline ends what hangs."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anonymousnet.config import Config, ScaleConfig
from anonymousnet.errors import AnonymousNetError, ClusterError, ConfigError
from anonymousnet.pipelines.home import Home
from anonymousnet.pipelines.session import ray_session
from anonymousnet.pipelines.storage import filesystem_of
from anonymousnet.pipelines.worker import Job, Progress, work
from anonymousnet.training.loop import Result
from anonymousnet.training.source import open_source
from anonymousnet.training.task import Task

Told = dict[str, Any]


def train(
    kind: type[Task], config: Config, data: str, out: str, address: str | None = None,
    endpoint_url: str | None = None, told: Callable[[Told], None] = lambda state: None,
) -> Result:  # fmt: skip
    """Train on preprocessed shards (a folder or s3://) into OUT, by `config.scale`; goes on from OUT's checkpoint.

    The checkpoint may be of any number of workers, or the plain loop's. `told` hears every second where the run is.
    Raises ConfigError for a stage or batch that cannot be, ClusterError when machines do not come or workers die too
    often, and what the plain loop raises.
    """
    settings = config.train.over(kind.defaults)
    scale, px = config.scale, settings.px or 128
    _check(kind, scale, settings.batch or 2)
    filesystem, root = filesystem_of(data, endpoint_url)
    needs_points = kind.labels is not None
    source, held_out = (open_source(root, split, px, needs_points, filesystem) for split in ("train", "validation"))
    started, home = time.monotonic(), Home(out, endpoint_url)
    with ray_session(address):
        wait_for_machines(scale)
        # Beside the driver: on a worker's machine it would die with it, and the run with both.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        progress = Progress.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        job = Job(kind, config, source, held_out, home, progress)
        state = _watched(_trainer(job, scale), progress, scale, told)
    steps = settings.steps or 1
    weights = home.open() / "weights"  # of a run in S3, the workers' folders are elsewhere: here is a copy
    return Result(steps, state.get("losses", {}), state["scores"], weights, time.monotonic() - started)


def _check(kind: type[Task], scale: ScaleConfig, batch: int) -> None:
    if scale.zero > kind.max_zero_stage:
        raise ConfigError(
            f"task {kind.name}: expected scale.zero of at most {kind.max_zero_stage}, got {scale.zero}: ZeRO 3 takes "
            "weights apart, and its penalty differentiates twice through whole convolutions; use --zero 2"
        )
    workers = scale.workers or 1
    if batch % (expected := max(2, kind.batch_multiple) * workers):
        raise ConfigError(
            f"train.batch counts the faces of all workers: expected a multiple of {expected} for {workers} workers, "
            f"got {batch}; set train.batch or --workers"
        )


def wait_for_machines(scale: ScaleConfig) -> None:
    """Wait until the cluster is as large as asked. Raises ClusterError at the deadline."""
    workers = scale.workers or 1
    until = time.monotonic() + scale.deadline_s
    while True:
        nodes = sum(node["Alive"] for node in ray.nodes())
        there = ray.cluster_resources()
        gpus, cpus = there.get("GPU", 0), there.get("CPU", 0)
        if nodes >= scale.nodes and cpus >= workers and gpus >= workers * scale.gpus_per_worker:
            return
        if time.monotonic() > until:
            raise ClusterError(
                f"expected {scale.nodes} machines with {workers} CPUs and {workers * scale.gpus_per_worker:g} GPUs "
                f"between them, found {nodes} with {cpus:g} and {gpus:g} after {scale.deadline_s:.0f} s; "
                "add machines, or ask for fewer workers"
            )
        time.sleep(1)


def _trainer(job: Job, scale: ScaleConfig) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from anonymousnet.pipelines.gloo import GlooConfig

    gpu = scale.gpus_per_worker > 0
    resources = {"CPU": 1.0, **({"GPU": scale.gpus_per_worker} if gpu else {})}
    # Checkpoints are our own, in OUT: what Ray Train keeps of a run is of no use afterwards.
    scratch = tempfile.mkdtemp(prefix="anonymousnet-train-")
    return TorchTrainer(
        work, train_loop_config={"job": job}, torch_config=TorchConfig(backend="nccl") if gpu else GlooConfig(),
        scaling_config=ScalingConfig(
            num_workers=scale.workers or 1, use_gpu=gpu, resources_per_worker=resources,
            placement_strategy="SPREAD" if scale.nodes > 1 else "PACK",
        ),
        run_config=RunConfig(
            name="run", storage_path=scratch, failure_config=FailureConfig(max_failures=scale.failures)
        ),
    )  # fmt: skip


def _watched(trainer: Any, progress: Any, scale: ScaleConfig, told: Callable[[Told], None]) -> Told:
    """Run the trainer and look after it; what its workers told last."""
    ended: list[BaseException | None] = []

    def fit() -> None:
        try:
            trainer.fit()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    threading.Thread(target=fit, daemon=True).start()
    try:
        while not ended:
            time.sleep(1)
            state, error, silent = ray.get(progress.ask.remote())
            told(state)
            if error is not None:  # no new attempt would mend it
                raise error
            if silent > scale.deadline_s:
                raise ClusterError(
                    f"no worker took a step for {silent:.0f} s (scale.deadline_s {scale.deadline_s:.0f}), after step "
                    f"{state['step']}; finished steps are kept: look at the machines and run it again to go on"
                )
    finally:
        shutil.rmtree(trainer.run_config.storage_path, ignore_errors=True)
    state, error, _ = ray.get(progress.ask.remote())
    if error is not None:
        raise error
    if ended[0] is not None:
        raise _failed(ended[0], state, scale)
    return dict(state)


def _failed(error: BaseException, state: Told, scale: ScaleConfig) -> AnonymousNetError:
    said = [line for line in str(error).splitlines() if line.strip()]
    return ClusterError(
        f"workers died more often than scale.failures = {scale.failures}, the last time after step {state['step']} "
        f"({said[-1].strip() if said else type(error).__name__}); finished steps are kept: run it again to go on"
    )
