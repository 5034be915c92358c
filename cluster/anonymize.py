"""`anonymousnet anonymize`, `verify` and `jobs`: a photo, a folder or a bucket, de-identified, and the record of it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anonymousnet.cluster.options import CONFIG, JSON, SET, bar, plain_errors, show

if TYPE_CHECKING:
    from anonymousnet.pipelines.bulk import Summary, Tally

ENDPOINT = click.option("--endpoint-url", help="S3 server other than AWS's [AWS_ENDPOINT_URL_S3].")


@click.command()
@click.argument("src")
@click.argument("dst")
@click.option("--audit", help="Private place for quarantine and evidence; needed where DST is in S3 [DST-private].")
@click.option("--strict", is_flag=True, help="Exit with status 1 if anything of SRC is not in DST.")
@click.option("--address", help="A Ray cluster's address [Ray on this machine].")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Ray processes, at most [none for what is here, else one per CPU]."
)
@ENDPOINT
@CONFIG
@SET
@JSON
@plain_errors
def anonymize(
    src: str, dst: str, audit: str | None, strict: bool, address: str | None, workers: int | None,
    endpoint_url: str | None, config_file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """De-identify SRC into DST: a photo, a folder, or s3://bucket/prefix.

    Photos, WebDataset tars, Parquet files with photos, and CelebA's layout. A job that was stopped or killed goes on
    where it was by the same command. What is on this machine is done by this process; what is in S3, and all that
    --workers or --address is given for, by Ray, to the same bytes. On a cluster, folders must be on a disk that all
    machines share, and each machine needs its own AWS credentials. Exit status 1: nothing was released.
    """
    from anonymousnet.config import Config
    from anonymousnet.pipelines import bulk

    try:
        done = bulk.anonymize(
            src, dst, Config.load(config_file, overrides), audit, address=address, endpoint_url=endpoint_url,
            workers=workers, progress=_lines if as_json else _bar,
        )  # fmt: skip
    except (SystemExit, KeyboardInterrupt) as stop:
        click.echo("stopped; what is finished is kept: run the same command to go on", err=True)
        sys.exit(stop.code if isinstance(stop, SystemExit) else 130)
    reasons = ", ".join(f"{count} {kind}" for kind, count in done.reasons.items())
    show(asdict(done), as_json, [
        f"{done.released} of {done.photos} photos released, {done.faces} faces, {done.photos_per_second:.1f} photos/s; "
        f"{done.quarantined} quarantined{reasons and f' ({reasons})'}, {done.skipped} other files and {done.left_out} "
        f"members of archives left out{_later(done.later_frames)}",
        _epsilons(done),
        f"job      {done.job} ({done.kept} objects were done before)",
        f"report   {done.report}",
        f"manifest {done.manifest}",
        f"signer   {done.signer}",
        f"private  {done.private}",
    ])  # fmt: skip
    if not done.released or (strict and not done.whole):
        sys.exit(1)


def _later(photos: int) -> str:
    """What is said of photos of which only the first frame or page was released."""
    return f", later frames or pages of {photos} left out" if photos else ""


def _epsilons(done: Summary) -> str:
    return (
        f"epsilon {done.epsilon:.2f} per face, {done.photo_epsilon:.2f} per photo (at most "
        f"{done.max_photo_epsilon:.2f}), t {done.t:.3f}, strength {done.strength:g}"
    )


def _bar(done: Iterable[Tally], total: int, kept: int) -> Iterable[Tally]:
    """Objects per second and when they will be done; faces per second; quarantined so far."""
    from tqdm import tqdm

    started, so_far = time.monotonic(), Counter[str]()
    with tqdm(total=total, initial=kept, unit="photos", disable=None) as shown:
        for tally in done:
            so_far.update(tally)
            shown.update(min(tally["objects"], total - shown.n))  # what was done before is an estimate
            rate = so_far["faces"] / (time.monotonic() - started)
            shown.set_postfix({"faces/s": f"{rate:.1f}", "quarantined": so_far["quarantined"]})
            yield tally


def _lines(done: Iterable[Tally], total: int, kept: int) -> Iterable[Tally]:
    """The same for machines: a JSON object a second, on standard error."""
    started, last, so_far = time.monotonic(), 0.0, Counter[str]()
    for tally in done:
        so_far.update(tally)
        now = time.monotonic()
        if now - last >= 1:
            last, rate = now, so_far["objects"] / (now - started)
            at = min(kept + so_far["objects"], total)
            click.echo(json.dumps({
                "done": at, "of": total, "photos_per_second": round(so_far["photos"] / (now - started), 3),
                "faces_per_second": round(so_far["faces"] / (now - started), 3),
                "eta_s": round((total - at) / rate, 1), "quarantined": so_far["quarantined"],
            }), err=True)  # fmt: skip
        yield tally


@click.command()
@click.argument("release")
@click.option("--signer", help="The publisher's public key, as `anonymize` printed it: any other is refused.")
@click.option("--any-signer", is_flag=True, help="Whoever signed it will do: for releases of your own.")
@ENDPOINT
@JSON
@plain_errors
def verify(release: str, signer: str | None, any_signer: bool, endpoint_url: str | None, as_json: bool) -> None:
    """Check a release's signature and every hash; name what is missing, changed or added (then the status is 1).

    Anybody can sign anything: without --signer or --any-signer the status of a whole release is 3.
    """
    from anonymousnet.errors import ConfigError
    from anonymousnet.pipelines.verify import verify as check

    if signer and any_signer:
        raise ConfigError("expected --signer KEY or --any-signer, got both; leave one of them out")
    found = check(release, endpoint_url, signer, bar("objects"))
    pinned = {None: "not compared: give --signer KEY", True: "as expected", False: "NOT the one expected"}
    named = [f"{what:<9}{name}" for what in found.totals for name in getattr(found, what)]
    show(asdict(found) | {"whole": found.whole}, as_json, [
        *named,
        f"{found.photos} photos in {found.objects} objects, {found.bytes >> 20} MiB compared; "
        + ", ".join(f"{count} {what}" for what, count in found.totals.items()),
        f"job      {found.job}",
        f"signer   {found.signer} ({pinned[found.expected_signer]})",
        "whole: as it was released" if found.whole else "NOT as it was released",
    ])  # fmt: skip
    if not found.whole:
        sys.exit(1)
    sys.exit(0 if signer or any_signer else 3)


@click.group()
def jobs() -> None:
    """Jobs of an audit place, finished or under way."""


@jobs.command("list")
@click.argument("audit")
@ENDPOINT
@JSON
@plain_errors
def list_all(audit: str, endpoint_url: str | None, as_json: bool) -> None:
    """Every job that keeps its private evidence in AUDIT."""
    from anonymousnet.pipelines.jobs import list_jobs
    from anonymousnet.pipelines.storage import storage_of

    found = list(list_jobs(storage_of(audit, endpoint_url)))
    show({"jobs": found}, as_json, [_line(job) for job in found])


@jobs.command("show")
@click.argument("audit")
@click.argument("job")
@ENDPOINT
@JSON
@plain_errors
def show_one(audit: str, job: str, endpoint_url: str | None, as_json: bool) -> None:
    """One job of AUDIT, named by the beginning of its id."""
    from anonymousnet.pipelines.jobs import show_job
    from anonymousnet.pipelines.storage import storage_of

    found = show_job(storage_of(audit, endpoint_url), job)
    show(found, as_json, [f"{key:<12} {value}" for key, value in found.items()])


def _line(job: dict[str, Any]) -> str:
    at = f"{job.get('objects', 0)} of {job.get('of', '?')}"
    return f"{job['run'][:16]}  {job['state']:<9}{at:<20}{job['source']} -> {job['release']}"
