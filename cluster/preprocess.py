"""`anonymousnet preprocess`: photos to sharded, aligned faces."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from anonymousnet.cluster.options import JSON, plain_errors, show

if TYPE_CHECKING:
    from anonymousnet.data.shards import ShardSummary


@click.command()
@click.argument("src")
@click.argument("dst")
@click.option("--shards", type=click.IntRange(min=1), help="Files to write [one per 500 photos].")
@click.option("--px", type=click.IntRange(32, 512), default=128, show_default=True, help="Side of the faces.")
@click.option("--address", help="A Ray cluster's address [Ray on this machine].")
@click.option("--endpoint-url", help="S3 server other than AWS's [AWS_ENDPOINT_URL_S3].")
@JSON
@plain_errors
def preprocess(
    src: str, dst: str, shards: int | None, px: int, address: str | None, endpoint_url: str | None, as_json: bool
) -> None:
    """Detect, align and crop the faces of SRC into sharded Parquet in DST; a killed run goes on where it was.

    SRC and DST are folders or s3://bucket/prefix; SRC is in CelebA's layout, or any folder of photos. On a cluster,
    folders must be on a disk that all machines share, and each machine needs its own AWS credentials. Exit status 1:
    not one face was found.
    """
    from anonymousnet.pipelines.preprocess import preprocess as run

    done = run(src, dst, px, shards, address, endpoint_url, _bar)
    errors = ", ".join(f"{count} {kind}" for kind, count in done.errors.items()) or "no errors"
    show(asdict(done), as_json, [
        f"{done.faces} faces from {done.photos} photos, {errors}; {done.photos_per_second:.1f} photos/s",
        f"shards   {done.shards} ({done.kept} were there)",
        f"content  {done.content_sha256}",
        f"card     {done.dst}/card.json",
    ])  # fmt: skip
    if not done.faces:
        sys.exit(1)


def _bar(done: Iterable[ShardSummary], photos: int) -> Iterable[ShardSummary]:
    """Photos, their rate and errors. A shard moves the bar by as many photos as it had, which `bar` cannot."""
    from tqdm import tqdm

    errors = 0
    with tqdm(total=photos, unit="photos", disable=None) as shown:
        for one in done:
            shown.update(one.photos)
            errors += sum(one.errors.values())
            shown.set_postfix(errors=errors)
            yield one
