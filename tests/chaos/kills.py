"""A job stopped at random moments and gone on with by the same command, until it is done: is everything as if it had
been left alone?

    python -m tests.chaos.kills [--place folder|bucket] [--workers N] [--photos 300] [--strikes 30] [--seed 0]

Strikes: SIGKILL of the driver, SIGKILL of all its processes but itself (Ray, children), SIGTERM, a full disk (folders
alone, where a tmpfs may be mounted). Jobs start anew until all strikes have hit. Exit status 1 if a release differs by
a byte, a ledger by an entry, or `verify` finds fault.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import psutil
from PIL import Image

from anonymousnet.data.synthetic import render_page
from tests.chaos.jobs import _count, _sets
from tests.conftest import write_small_weights
from tests.seaweed import KEYS, Seaweed

LONGEST_S = 1800
ROOM = 64 << 20
"""Bytes of the disk that fills up."""


class Place:
    """Where the jobs read and write: folders, or a bucket of a server here."""

    def __init__(self, folder: Path, bucket: bool, workers: int | None, photos: int) -> None:
        self.folder, self.workers = folder, workers
        self.settings = write_small_weights(_made(folder / "weights"))
        self.server = Seaweed(folder / "s3").start() if bucket else None
        pages = [render_page(i, faces=1, width=200)[0] for i in range(8)]
        for i in range(photos):
            Image.fromarray(np.roll(pages[i % 8], i // 8, 1)).save(_made(folder / "in") / f"{i:04}.jpg", quality=92)
        (folder / "in" / "damaged.jpg").write_bytes(b"no photo")
        if self.server:
            self.server.client.create_bucket(Bucket="kills")
            for path in (folder / "in").iterdir():
                self.server.client.put_object(Bucket="kills", Key=f"in/{path.name}", Body=path.read_bytes())

    def command(self, name: str) -> list[str]:
        out = self.folder / "disk" / name
        base = f"s3://kills/{name}" if self.server else str(_made(out) / "out")
        source = "s3://kills/in" if self.server else str(self.folder / "in")
        words = [sys.executable, "-m", "anonymousnet.cluster.cli", "anonymize", source, base]
        words += ["--audit", f"{base}-audit"]
        words += ["--workers", str(self.workers)] if self.workers else []
        words += ["--endpoint-url", self.server.endpoint] if self.server else []
        return [*words, *_sets([*self.settings, f"release.ledger={_made(out)}/ledger"])]

    def hashes(self, name: str) -> dict[str, str]:
        """Of every file of a release."""
        if self.server:
            pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket="kills", Prefix=f"{name}/")
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
            found = {k: self.server.client.get_object(Bucket="kills", Key=k)["Body"].read() for k in keys}
            return {k.split("/", 1)[1]: hashlib.sha256(data).hexdigest() for k, data in found.items()}
        out = self.folder / "disk" / name / "out"
        files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
        return {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in files.items()}

    def is_whole(self, name: str) -> bool:
        """What `verify` says."""
        release = f"s3://kills/{name}" if self.server else str(self.folder / "disk" / name / "out")
        more = ["--endpoint-url", self.server.endpoint] if self.server else []
        words = [sys.executable, "-m", "anonymousnet.cluster.cli", "verify", release, *more]
        return subprocess.run(words, stdout=subprocess.DEVNULL).returncode == 0

    def spent(self, name: str) -> int:
        return _count(self.folder / "disk" / name / "ledger")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def strike(process: subprocess.Popen[bytes], kind: str) -> None:
    """Strike, and wait for the end; a job that was not killed itself must end by itself."""
    if kind == "driver":
        process.kill()
    elif kind == "others":
        for other in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                other.kill()
    elif kind == "term":
        process.send_signal(signal.SIGTERM)
    process.wait(LONGEST_S)


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes free."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - left)))
    return disk / "filler"


@click.command()
@click.option("--place", "where", type=click.Choice(["folder", "bucket"]), default="folder")
@click.option("--workers", type=int)
@click.option("--photos", default=300)
@click.option("--strikes", default=30)
@click.option("--seed", default=0)
def main(where: str, workers: int | None, photos: int, strikes: int, seed: int) -> None:
    """Strike until all have hit; compare every job with one that was left alone."""
    chance, hits, wrong, jobs = random.Random(seed), Counter[str](), list[str](), 0
    os.environ |= KEYS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        disk = _made(folder / "disk")
        mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", disk]).returncode
        kinds = ["driver", "others", "term"] + (["disk"] if mounted and where == "folder" else [])
        place = Place(folder, where == "bucket", workers, photos)
        try:
            started = time.monotonic()
            subprocess.run(place.command("alone"), stdout=subprocess.DEVNULL, check=True)
            whole_s, expected = time.monotonic() - started, (place.hashes("alone"), place.spent("alone"))
            used = ROOM - shutil.disk_usage(disk).free
            click.echo(f"undisturbed: {whole_s:.1f} s, {len(expected[0])} files, {expected[1]} spends, {used} bytes")
            while sum(hits.values()) < strikes:
                name, jobs = f"job{jobs}", jobs + 1
                while True:
                    more = sum(hits.values()) < strikes
                    kind = chance.choice(kinds) if more else "none"
                    filler = fill(disk, chance.randrange(4096, max(8192, used))) if kind == "disk" else None
                    log = (folder / "log").open("wb+")
                    process = subprocess.Popen(place.command(name), stdout=log, stderr=log)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(LONGEST_S if kind in ("none", "disk") else chance.uniform(0, whole_s))
                    if process.poll() is None:
                        strike(process, kind)
                    if filler:
                        filler.unlink()
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip().splitlines()
                    if process.returncode == 0:
                        break
                    hits[kind] += 1
                    click.echo(f"{name} {kind}: status {process.returncode}, {said[-1:] or ''}"[:300])
                    if kind == "none" or any(line.startswith("Traceback") for line in said):
                        wrong.append(f"{name}: {said[-12:]}")
                    if kind == "none":
                        break
                for what, found, there in zip(
                    ("files", "spends"), (place.hashes(name), place.spent(name)), expected, strict=True
                ):
                    if found != there:
                        wrong.append(f"{name}: other {what}")
                if not place.is_whole(name):
                    wrong.append(f"{name}: not whole")
                if where == "folder":
                    shutil.rmtree(disk / name)
        finally:
            if place.server:
                place.server.kill()
            if mounted:
                subprocess.run(["umount", "-l", disk], check=True)
    click.echo(json.dumps({"jobs": jobs, "strikes": dict(hits), "wrong": wrong}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
