"""`anonymousnet cluster`: files for a cluster, what is wrong with them, and what a release will take."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, plain_errors, show

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
@click.option("--region", default="us-east-1", show_default=True, help="AWS region.")
@click.option("--host", "hosts", multiple=True, help="On premises: an address, the head's first; repeatable.")
@click.option("--out", type=FOLDER, default=Path("cluster-files"), show_default=True)
@CONFIG
@SET
@JSON
@plain_errors
def render(
    sizes: tuple[str, ...], gpu: str, task: str, bucket: str, audit_bucket: str, image: str, region: str,
    hosts: tuple[str, ...], out: Path, config_file: Path | None, overrides: tuple[str, ...], as_json: bool,
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
    choices = Choices(task, bucket, audit_bucket, image, region, hosts)
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
