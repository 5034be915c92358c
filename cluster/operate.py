"""`anonymousnet cluster`: files for a cluster, what is wrong with them, and what a release will take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, plain_errors, show

if TYPE_CHECKING:
    from anonymousnet.cluster.plan import Plan

GPU = click.option("--gpu", default="l4", show_default=True, help="Kind of GPU: a10g, a100, h100, l4.")


@click.group()
def cluster() -> None:
    """From one machine to many: render files, validate them, plan a run."""


@cluster.command()
@click.option("--size", "sizes", multiple=True, required=True,
              help="small (1x1), medium (1x8), large (4x8), or NODESxGPUS; repeatable.")  # fmt: skip
@GPU
@click.option("--task", default="attributes", show_default=True, help="What train.yaml trains.")
@click.option("--bucket", default="anonymousnet", show_default=True, help="With photos/, shards/, runs/, released/.")
@click.option("--audit-bucket", default="anonymousnet-private", show_default=True, help="For private evidence.")
@click.option("--image", default="anonymousnet", show_default=True, help="Where the images are, without their tags.")
@click.option("--image-digest", default="", help="sha256:... of the pushed image: machines then run no other.")
@click.option("--redis-digest", default="", help="The same of Redis's image.")
@click.option("--region", default="us-east-1", show_default=True, help="AWS region.")
@click.option("--host", "hosts", multiple=True, help="On premises: an address, the head's first; repeatable.")
@click.option("--out", type=FOLDER, default=Path("cluster-files"), show_default=True)
@CONFIG
@SET
@JSON
@plain_errors
def render(
    sizes: tuple[str, ...], gpu: str, task: str, bucket: str, audit_bucket: str, image: str, image_digest: str,
    redis_digest: str, region: str, hosts: tuple[str, ...], out: Path, config_file: Path | None,
    overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Write launcher, Kubernetes, image and dashboard files for a cluster, from the configuration.

    Workers, GPUs, batch and ZeRO stage that the configuration leaves open follow from the size; a size that cannot
    serve what it says is refused.
    """
    from anonymousnet.cluster.render import Choices, write
    from anonymousnet.cluster.render import render as files
    from anonymousnet.cluster.sizes import Size
    from anonymousnet.config import Config

    config = Config.load(config_file, overrides)
    choices = Choices(task, bucket, audit_bucket, image, region, hosts, image_digest, redis_digest)
    found = files([Size.parse(size, gpu) for size in sizes], config, choices)
    write(found, out)
    show({"out": str(out), "files": sorted(found)}, as_json, [
        *(str(out / name) for name in sorted(found)),
        f"{len(found)} files; look them through with: anonymousnet cluster validate {out}",
    ])  # fmt: skip


@cluster.command()
@click.argument("places", nargs=-1, required=True, type=FOLDER)
@JSON
@plain_errors
def validate(places: tuple[Path, ...], as_json: bool) -> None:
    """Look through cluster files, or folders of them, name every mistake by file and line (then the status is 1)."""
    from anonymousnet.cluster.validate import validate as look

    files, mistakes = look(list(places))
    show({"files": files, "mistakes": [asdict(one) for one in mistakes]}, as_json, [
        *map(str, mistakes), f"{files} files, {len(mistakes) or 'no'} mistakes",
    ])  # fmt: skip
    sys.exit(1 if mistakes else 0)


@cluster.command()
@click.option("--photos", required=True, help="How many, such as 202599 or 1e9.")
@click.option("--size", default="medium", show_default=True, help="As for `render`.")
@GPU
@click.option("--task", default="attributes", show_default=True, help="attributes or generator.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of preprocess and bulk [what the size has].")
@click.option("--within", type=click.FloatRange(min=0, min_open=True), help="Hours that preprocess and bulk may take.")
@click.option("--price", type=click.FloatRange(min=0), help="Of one machine's hour, for the costs.")
@click.option("--here", is_flag=True, help="Time this machine first: plan for cores as fast as its [as the measured].")
@CONFIG
@SET
@JSON
@plain_errors
def plan(
    photos: str, size: str, gpu: str, task: str, workers: int | None, within: float | None, price: float | None,
    here: bool, config_file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Say what preprocessing, training and releasing so many photos takes: hours, storage, requests.

    From rates that were measured, and assumptions, both printed. What goes beyond them is marked.
    """
    from anonymousnet.cluster.plan import check_deadline, make_plan
    from anonymousnet.cluster.sizes import Size, fitted
    from anonymousnet.cluster.yardstick import speed
    from anonymousnet.config import Config

    machines = Size.parse(size, gpu)
    config = fitted(Config.load(config_file, overrides), machines, task)
    made = make_plan(_count(photos), machines, config, task, workers, speed() if here else 1.0)
    if within is not None:
        check_deadline(made, within, machines, config)
    cost = None if price is None else made.hours * machines.nodes * price
    show({**asdict(made), "hours": made.hours, "cost": cost}, as_json, _plan_lines(made, cost))


def _plan_lines(made: Plan, cost: float | None) -> Iterator[str]:
    yield f"{made.photos:,} photos on {made.machines} machines ({made.size}, {made.gpu})"
    yield f"{'':<20}{'workers':>8}{'hours':>12}{'GB':>12}{'GET':>16}{'PUT':>16}{'LIST':>12}  bound by"
    for one in made.phases:
        yield (
            f"{one.name:<20}{one.workers:>8}{one.hours:>12,.2f}{one.stored_gb:>12,.1f}{one.gets:>16,}{one.puts:>16,}"
            f"{one.lists:>12,}  {one.bound_by}"
        )
    yield f"{'in all':<28}{made.hours:>12,.2f}" + ("" if cost is None else f"   costs {cost:,.0f}")
    yield from made.assumptions
    if made.extrapolated:
        yield "The figures above are EXTRAPOLATED: run a hundredth first, and compare."


def _count(text: str) -> int:
    """A number of photos, also as 1e9. Raises ConfigError."""
    from anonymousnet.errors import ConfigError

    try:
        value = float(text)
        if not (1 <= value < 1e15 and value == int(value)):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--photos: expected a whole number such as 202599 or 1e9, got '{text}'") from None
    return int(value)
