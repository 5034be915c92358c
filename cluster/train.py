"""`anonymousnet train`: one process, or many workers under Ray Train and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from anonymousnet.cluster.options import CONFIG, JSON, SET, bar, celeba, plain_errors, show
from anonymousnet.data.paths import resolve_path


@click.command()
@click.argument("task")
@click.option("--data", help="CelebA's folder [ANONYMOUSNET_CELEBA], or what `preprocess` wrote: a folder or s3://.")
@click.option("--synthetic", is_flag=True, help="Train on rendered faces instead of CelebA.")
@click.option("--out", help="Checkpoints, logs and weights: a folder or s3:// [runs/TASK].")
@click.option("--workers", type=int, help="Training processes, under Ray Train and DeepSpeed [this one alone].")
@click.option("--gpus-per-worker", type=float, help="GPUs that each worker holds [0].")
@click.option("--nodes", type=int, help="Fewest machines to begin with [1].")
@click.option("--zero", type=click.IntRange(0, 3), help="DeepSpeed ZeRO stage [1].")
@click.option("--address", help="A Ray cluster to join [one of our own, on this machine].")
@click.option("--endpoint-url", help="S3 endpoint [AWS_ENDPOINT_URL_S3].")
@CONFIG
@SET
@JSON
@plain_errors
def train(
    task: str, data: str | None, synthetic: bool, out: str | None, workers: int | None, gpus_per_worker: float | None,
    nodes: int | None, zero: int | None, address: str | None, endpoint_url: str | None, config_file: Path | None,
    overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Train attributes, embedder, generator, landmarks, painter, refiner or translator.

    A killed run goes on where it was.
    """
    from anonymousnet.config import Config
    from anonymousnet.training.tasks import task_named

    kind = task_named(task)
    scale = {"workers": workers, "gpus_per_worker": gpus_per_worker, "nodes": nodes, "zero": zero}
    given = [f"scale.{name}={value}" for name, value in scale.items() if value is not None]
    config = Config.load(config_file, [*overrides, *given])
    out = out or f"runs/{task}"
    if config.scale.workers is None:
        from anonymousnet.training.loop import train as run
        from anonymousnet.training.tasks import training_tables

        folder = None if synthetic else celeba(resolve_path(data) if data else None)
        px = config.train.over(kind.defaults).px or 128
        tables = training_tables(
            folder, px, config.seed, kind.labels, lambda rows: bar("faces")(rows, None), kind.slack, kind.large
        )
        result = run(kind, config, *tables, resolve_path(out))
    else:
        from anonymousnet.pipelines.train import train as scaled

        steps = config.train.over(kind.defaults).steps or 1
        result = scaled(
            kind, config, data or str(celeba(None)), str(_whole(out)), address, endpoint_url, _bar(task, steps)
        )
    answer = {**asdict(result), "weights": str(result.weights)}
    show(answer, as_json, [
        f"{result.steps} steps in {result.seconds:.0f} s",
        *(f"  {name:<24}{value:.4f}" for name, value in (result.losses | result.scores).items()),
        f"weights  {result.weights}",
    ])  # fmt: skip


def _whole(out: str) -> str | Path:
    """Workers have other working folders: a local path is made absolute."""
    return out if "://" in out else resolve_path(out)


def _bar(task: str, steps: int) -> Callable[[dict[str, Any]], None]:
    """A progress bar that is told where a run is."""
    from tqdm import tqdm

    line = tqdm(total=steps, desc=task, unit="step", disable=None)

    def told(state: dict[str, Any]) -> None:
        line.n = state["step"]
        line.refresh()

    return told
