"""Photos -> aligned faces in sharded Parquet, on Ray Data.

A shard is a fixed range of the sorted photos of one split, so its bytes do not depend on who makes it, or when. It is
written whole or not at all and carries the hash of its job; started again, a job keeps the shards that it finds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anonymousnet.config import AlignConfig
from anonymousnet.data import shards as store
from anonymousnet.data.shards import ShardSummary
from anonymousnet.errors import ConfigError, StorageError
from anonymousnet.nets.centerface_file import SHA256
from anonymousnet.pipelines.session import Again, persistently, ray_session
from anonymousnet.pipelines.software import software
from anonymousnet.pipelines.source import Labels, Source, read_source
from anonymousnet.pipelines.storage import Storage, storage_of

PHOTOS_PER_SHARD, BYTES_PER_SHARD = 500, 128 << 20
"""How large shards are unless their number is given: at most this many photos, and bytes of photos."""
LARGEST_SHARD = 1 << 30
"""Bytes of photos: a shard travels through memory in one piece."""
THREADS = 16
"""That read photos, or look at finished shards: S3 answers slowly, but many at a time."""
TRIES = 3
"""How often a worker that dies over a shard is replaced before the job gives up."""
_MARK = "anonymousnet preprocess"

Progress = Callable[[Iterable[ShardSummary], int], Iterable[ShardSummary]]


@dataclass(frozen=True, slots=True)
class Shard:
    """A fixed range of the photos of one split."""

    file: str
    errors_file: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker must know."""

    hash: str
    source: Storage
    target: Storage
    layout: str
    below: str
    """Where the photos lie in the source."""
    face_px: int
    align: AlignConfig


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job did: photos = photos with faces + all errors."""

    photos: int
    faces: int
    errors: dict[str, int]
    shards: int
    kept: int
    """Shards found finished."""
    seconds: float
    photos_per_second: float
    """Of the photos that were not finished before; Ray's start-up included."""
    content_sha256: str
    dst: str


def preprocess(
    src: str, dst: str, face_px: int = 128, shards: int | None = None, address: str | None = None,
    endpoint_url: str | None = None, progress: Progress = lambda done, _: done,
) -> Summary:  # fmt: skip
    """Detect, align and crop every face below `src` into a data set at `dst`; both a local folder or s3://bucket/prefix.

    Killed and started again, it does only what is missing. Raises StorageError, AttributeTableError, ConfigError (too
    few shards), DataError (`dst` holds another job's shards), ClusterError (no Ray, or workers die again and again).
    """
    started = time.monotonic()
    source = read_source(storage_of(src, endpoint_url))
    plan = plan_shards(source, shards)
    align = AlignConfig()
    settings = {"shards": len(plan), **align.model_dump(), **_networks(align), **software()}
    job = Job(
        hashlib.sha256(json.dumps([store.FORMAT, face_px, source.fingerprint, settings]).encode()).hexdigest(),
        source.place, storage_of(dst, endpoint_url), source.layout, source.below, face_px, align,
    )  # fmt: skip
    _check_target(job.target)
    finished = {one.file: one for one in _finished(job, plan)}
    kept, todo = len(finished), [shard for shard in plan if shard.file not in finished]
    if todo:  # said before the work begins, which also tells whether `dst` can be written to at all
        job.target.put("README.md", f"Unfinished: run the same `{_MARK}` again, and it goes on.\n".encode())
        photos = sum(len(shard.labels.names) for shard in todo)
        with ray_session(address) as again:
            for one in progress(_run(job, todo, address, again), photos):
                finished[one.file] = one
    card = store.make_card(job.hash, src, source.layout, face_px, settings, [finished[one.file] for one in plan])
    job.target.put("README.md", store.card_page(card).encode())
    job.target.put("card.json", json.dumps(card, indent=1).encode())
    seconds, counts = time.monotonic() - started, card["counts"]
    done = sum(len(shard.labels.names) for shard in todo)
    return Summary(
        counts["photos"], counts["faces"], counts["errors"], len(plan), kept, round(seconds, 3),
        round(done / seconds, 3), card["content_sha256"], dst,
    )  # fmt: skip


def plan_shards(source: Source, count: int | None) -> list[Shard]:
    """Ranges of the sorted photos, in order: `count` of them in all, shared over the splits in proportion to their
    photos, at least one each and none empty. Raises ConfigError when a shard would not fit into memory.
    """
    total, weight = len(source.labels.names), int(source.bytes_N.sum())
    needed = -(-weight // LARGEST_SHARD)
    count = count or max(-(-total // PHOTOS_PER_SHARD), -(-weight // BYTES_PER_SHARD))
    if count < needed:
        raise ConfigError(
            f"expected at least {needed} shards for {weight >> 20} MiB of photos, got {count}; raise --shards"
        )
    plan: list[Shard] = []
    for number, split in enumerate(store.SPLITS):
        rows = np.flatnonzero(source.partitions == number)
        share = min(len(rows), max(1, round(count * len(rows) / total)))
        for i, part in enumerate(np.array_split(rows, share) if share else []):
            errors = f"errors/part-{len(plan):05}.parquet"
            plan.append(Shard(f"{split}/part-{i:05}.parquet", errors, source.labels.take(part)))
    return plan


def _check_target(target: Storage) -> None:
    """Refuse a place whose README is somebody else's. Raises ConfigError, StorageError."""
    try:
        page = target.read("README.md")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read README.md in {target}: {error.strerror}; choose another DST") from error
    if _MARK.encode() not in page:
        raise ConfigError(f"{target} holds other files than `{_MARK}` writes; choose a folder of its own for DST")


def _finished(job: Job, plan: list[Shard]) -> Iterator[ShardSummary]:
    """The shards that are there already, read whole. Raises DataError when one is another job's."""
    there = {name for split in store.SPLITS for name in job.target.files(split)}

    def look(shard: Shard) -> ShardSummary:
        return store.summarize(job.target.read(shard.file), shard.file, job.hash)

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(look, [shard for shard in plan if shard.file in there])


def _run(job: Job, todo: list[Shard], address: str | None, again: Again) -> Iterator[ShardSummary]:
    """Make shards on Ray and yield each once it is written, in any order."""
    import ray
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told once, by us
    cpus = int(ray.cluster_resources().get("CPU", 1))
    # A local Ray is told of more CPUs than there are, and a cluster's must leave one for reading and writing.
    workers = min(len(todo), max(1, cpus - 1) if address else os.cpu_count() or 1)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray's own wrapping forgets ours on its way here
    with DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how often an actor restarts has no other name yet
        done: set[str] = set()

        def start() -> Iterator[ShardSummary]:
            for row in _pipeline(job, [shard for shard in todo if shard.file not in done], workers).iter_rows():
                yield ShardSummary(**json.loads(row["summary"]))

        for one in persistently(start, TRIES, again):
            done.add(one.file)  # here: what a start that was given up still finds is not told, and so not done
            yield one


def _pipeline(job: Job, todo: list[Shard], workers: int) -> Any:
    """Read (tasks) -> detect, align, crop, encode (actors) -> write (tasks); a row is a shard throughout."""
    from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_items

    # Pickled here: Ray would first try to turn a shard into columns, and say that it cannot.
    rows: Any = from_items([{"shard": pickle.dumps(shard)} for shard in todo], override_num_blocks=len(todo))
    pool = ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2)
    few = TaskPoolStrategy(size=-(-workers // 4))  # reading and writing wait for disks; more would only cost memory
    return (
        rows.map(_read, fn_args=(job,), compute=few, num_cpus=0.25)
        .map(
            _Process, fn_constructor_args=(job,), compute=pool, num_cpus=1, max_restarts=-1, max_task_retries=TRIES
        )
        .map(_write, fn_args=(job,), compute=few, num_cpus=0.25)
    )  # fmt: skip


def _read(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """Add the photos' bytes, or the reason why one cannot be read. Raises StorageError when storage is out of reach."""

    def read(name: str) -> bytes | str:
        try:
            return job.source.read(job.below + name)
        except OSError as error:
            return f"cannot read it: {error.strerror or 'gone since it was listed'}"

    shard: Shard = pickle.loads(row["shard"])
    with ThreadPoolExecutor(THREADS) as pool:
        return {"shard": row["shard"], "photos": pickle.dumps(list(pool.map(read, shard.labels.names)))}


class _Process:
    """The actor: detect, align, crop, encode."""

    def __init__(self, job: Job) -> None:
        from anonymousnet.pipelines.aligner import Aligner  # torch, which readers and writers need not wait for

        self.job = job
        self.aligner = Aligner(job.align, job.face_px, job.layout)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard: Shard = pickle.loads(row["shard"])
        faces, errors = self.aligner.shard(pickle.loads(row["photos"]), shard.labels)
        return {
            "file": shard.file,
            "data": store.shard_parquet(faces, self.job.hash, len(shard.labels.names), errors),
            "errors_file": shard.errors_file,
            "errors": store.to_parquet(errors, store.ERRORS, {"job": self.job.hash}) if errors else b"",
        }


def _write(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """Put a shard where it belongs: the errors first, for once the shard is there nobody looks again."""
    if row["errors"]:
        job.target.put(row["errors_file"], row["errors"])
    job.target.put(row["file"], row["data"])
    return {"summary": json.dumps(asdict(store.summarize(row["data"], row["file"], job.hash)))}


def _networks(align: AlignConfig) -> dict[str, str]:
    """Hashes of what finds and places the faces."""
    from anonymousnet import weights  # torch, which readers and writers need not wait for

    found = {"detector": SHA256[:12]}
    return found if align.landmarks is None else {**found, "landmarks": weights.read(align.landmarks).sha256[:12]}
