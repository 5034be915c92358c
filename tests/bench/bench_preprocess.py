"""`anonymousnet preprocess` against a plain loop over two processes that does the same work: read, detect, align, crop,
encode, write the same Parquet files, by the same functions, without Ray."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
import time
from functools import cache
from pathlib import Path

from PIL import Image

from anonymousnet.config import AlignConfig
from anonymousnet.data import shards as store
from anonymousnet.data.store import write_atomic
from anonymousnet.data.synthetic import synthetic_dataset
from anonymousnet.pipelines.aligner import Aligner
from anonymousnet.pipelines.preprocess import Shard, plan_shards, preprocess
from anonymousnet.pipelines.session import ray_session
from anonymousnet.pipelines.source import ALIGNED, read_source
from anonymousnet.pipelines.storage import storage_of

SHARDS, PROCESSES = 36, 2
RENDERED = 4_500
"""Photos, where CelebA is not there: so many that starting is not what is measured."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the peer's processes as for Ray's
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = _photos(folder / "photos")
        peer = _plain_loop(folder / "photos", folder / "plain")
        started = time.monotonic()
        with ray_session():
            begun = time.monotonic()
            preprocess(str(folder / "photos"), str(folder / "ray"), shards=SHARDS)
            ours = time.monotonic() - begun
        whole = time.monotonic() - started
        same = _rows(folder / "plain") == _rows(folder / "ray")
    print(f"anonymousnet  {photos / ours:6.1f} photos/s, {photos / whole:6.1f} with Ray's start and end")
    print(f"plain loop    {photos / peer:6.1f} photos/s, {PROCESSES} processes, with their start")
    print(f"ratio         {peer / ours:6.2f}, {peer / whole:.2f} with Ray's start and end; same faces: {same}")


def _photos(folder: Path) -> int:
    """How many there are: all faces of CelebA where it is, else rendered ones, as a plain folder."""
    folder.mkdir()
    celeba = os.environ.get("ANONYMOUSNET_CELEBA")
    if celeba:
        found = sorted(Path(celeba, ALIGNED).iterdir())
        for path in found:
            (folder / path.name).write_bytes(path.read_bytes())
        return len(found)
    images = synthetic_dataset(60, 178, 30, 0)[0]
    for i in range(RENDERED):
        Image.fromarray(images[i % len(images)]).save(folder / f"{i:06}.jpg", quality=90)
    return RENDERED


def _plain_loop(photos: Path, out: Path) -> float:
    """Seconds that the peer needs, the start of its processes included."""
    started = time.monotonic()
    plan = plan_shards(read_source(storage_of(str(photos))), SHARDS)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for _ in pool.imap_unordered(_work, [(photos, out, shard) for shard in plan]):
            pass
    return time.monotonic() - started


@cache
def _aligner() -> Aligner:
    return Aligner(AlignConfig(), 128, "photos")


def _work(item: tuple[Path, Path, Shard]) -> None:
    photos, out, shard = item
    rows, errors = _aligner().shard([(photos / name).read_bytes() for name in shard.labels.names], shard.labels)
    write_atomic(out / shard.file, store.shard_parquet(rows, "", len(shard.labels.names), errors))


def _rows(folder: Path) -> str:
    """Hash of all faces, without the job's hash in the files' metadata."""
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    for path in sorted(folder.glob("train/*.parquet")):
        digest.update(repr(pq.read_table(path).to_pylist()).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
