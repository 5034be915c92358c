"""A bucket at a time: every photo of a source released or withheld exactly once, whatever dies on the way.

    source (S3 or folder) -> release: photos, manifest, statement
                          -> audit:   jobs/, states/, RUN/records/ (private evidence), RUN/quarantine-*.jsonl

The job's id is a keyed hash of source, configuration, weights, key and software. The destination belongs to one job:
the same command goes on where it was, and another one is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anonymousnet.config import Config
from anonymousnet.data.subjects import read_subjects
from anonymousnet.errors import ConfigError
from anonymousnet.nets.centerface_file import SHA256
from anonymousnet.pipelines.bulk_places import hurried, open_places, replace_name
from anonymousnet.pipelines.bulk_plan import Job, Survey, address_of, survey
from anonymousnet.pipelines.jobs import Hold, held
from anonymousnet.pipelines.session import persistently, ray_session, software
from anonymousnet.pipelines.storage import Storage
from anonymousnet.privacy.randomness import derive, load_key
from anonymousnet.privacy.release_key import ReleaseKey

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer

Tally = dict[str, int]
Progress = Callable[[Iterable[Tally], int, int], Iterable[Tally]]
"""(tallies of finished chunks, objects in all, objects that were done before) -> the same tallies."""


@dataclass(frozen=True, slots=True)
class BulkSummary:
    """What a job did: every photo is released or quarantined; every other object is skipped."""

    job: str
    run: str
    photos: int
    released: int
    quarantined: int
    faces: int
    skipped: int
    kept: int
    """Objects that were done before this command."""
    seconds: float
    photos_per_second: float
    """Of what this command did; Ray's start-up included."""
    epsilon: float
    """Of each face."""
    photo_epsilon: float
    """Mean over released photos with faces of the epsilon of a photo, the sum over its faces."""
    max_photo_epsilon: float
    """The largest of them."""
    t: float
    strength: float
    guarantee: str
    manifest: str
    signer: str
    """Public key of the manifest's signature, hex."""
    private: str
    reasons: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    """Members, columns and cells of archives that are not in the release; the audit place names them."""
    unmatched: int = 0
    """Lines of `release.subjects` that name no photo; the audit place has them."""
    later_frames: int = 0
    """Released photos whose files held more frames or pages: the first one is released, the others are left out."""


def anonymize_bulk(
    src: str, dst: str, config: Config, audit: str | None = None, *, address: str | None = None,
    endpoint_url: str | None = None, workers: int | None = None, progress: Progress = lambda done, *_: done,
) -> BulkSummary:  # fmt: skip
    """De-identify every photo of `src` into `dst`; each a folder or s3://bucket/prefix.

    `workers`: at most so many processes [one per CPU, or per GPU]. SIGTERM ends it with status 143; the same call then
    goes on.

    Raises StorageError (a place refuses), ConfigError (places overlap, `dst` is another job's), ClusterError (no Ray,
    workers die again and again, another driver is at it), DataError (the source changed), LedgerError.
    """
    started = time.monotonic()
    source, target, private = open_places(src, dst, audit, endpoint_url)
    surveyed = survey(source)
    config, anonymizer = _resolved(config, address)
    job = _job(source, target, private, surveyed, config, anonymizer)
    _claim(job, surveyed)
    with _graceful(), held(hurried(private), job.run) as hold:  # its beats come again, and its end is not waited for
        done_now: Counter[str] = Counter()
        kept = surveyed.objects - _missing(job, surveyed)
        hold.progress = {"objects": kept, "of": surveyed.objects}
        if kept < surveyed.objects:
            tallies = _run(job, surveyed, config, address, workers)
            for tally in progress(_watched(tallies, hold, kept, surveyed.objects), surveyed.objects, kept):
                done_now.update(tally)
            _heed_sigterm()  # Ray has left without it
        hold.check()
        from anonymousnet.pipelines.manifest import publish_manifest, signer_of

        done = publish_manifest(job, surveyed, anonymizer)
        kept = surveyed.objects - done_now["objects"]
        hold.progress = {**done["counts"], "objects": surveyed.objects, "of": surveyed.objects}
    seconds, counts, privacy = time.monotonic() - started, done["counts"], done["privacy"]
    return BulkSummary(
        job.id, job.run, counts["photos"], counts["released"], counts["quarantined"], counts["faces"],
        counts["skipped"], kept, round(seconds, 3), round(done_now["photos"] / seconds, 3),
        privacy["epsilon_per_face"], privacy["mean_epsilon_per_photo"], privacy["max_epsilon_per_photo"], privacy["t"],
        privacy["strength"], privacy["covers"],
        address_of(replace_name(target, "manifest.json")),
        signer_of(job.key.value), address_of(private), done["reasons"], counts["left_out"], done["unmatched"],
        done["later_frames"],
    )  # fmt: skip


def _resolved(config: Config, address: str | None) -> tuple[Config, Anonymizer]:
    """The configuration with `auto` decided once, for all workers, and an anonymizer that knows its weights' hashes."""
    from anonymousnet.anonymizer import Anonymizer

    device = config.device
    if device == "auto":
        device = "cuda" if _gpus(address) else "cpu"
    local = config.model_copy(update={"device": device if address is None else "cpu"})
    anonymizer = Anonymizer.load(local, load_key(config.release.key_file))
    if (ledger := anonymizer.ledger()) is not None:
        ledger.close()  # a ledger that cannot be used is told before the work
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" or anonymizer.runner.form.endswith("bfloat16") else "fp32"
    return config.model_copy(update={"device": device, "precision": precision}), anonymizer


def _gpus(address: str | None) -> int:
    if address is None:
        import torch

        return torch.cuda.device_count()
    import ray

    with ray_session(address):
        return int(ray.cluster_resources().get("GPU", 0))


def _job(
    source: Storage, target: Storage, audit: Storage, surveyed: Survey, config: Config, anonymizer: Anonymizer
) -> Job:
    """The job that source, configuration, weights, key and software make."""
    key = ReleaseKey.open(config.release.key_file)
    used = dict(sorted(anonymizer.weights.items()))
    form = f"{config.device}-{ {'bf16': 'bfloat16', 'fp32': 'float32'}[config.precision] }".replace(" ", "")
    drop: dict[str, bool | set[str]] = {
        "train": True,
        "scale": True,
        "serve": True,
        "seed": True,
        "batch": True,
        "release": {"key_file", "ledger", "budget", "subjects"},
    }
    settings = {
        "source": surveyed.fingerprint, "layout": surveyed.layout,
        "config": config.model_dump(mode="json", exclude=drop),
        "subjects": sorted(read_subjects(config.release.subjects).items()), "budget": config.release.budget,
        "ledger": config.release.ledger is not None, "weights": used, "detector": SHA256,
        "population": anonymizer.mechanism.population.text(), "software": software(), "form": form,
    }  # fmt: skip
    identity = derive(key.value, "job", json.dumps(settings, sort_keys=True)).hex()[:32]
    where = hashlib.sha256(address_of(target).encode()).hexdigest()[:8]
    return Job(
        identity, f"{identity}-{where}", source, target, audit, surveyed.layout, config, key, used, form
    )  # fmt: skip


def _claim(job: Job, surveyed: Survey) -> None:
    """Make the destination the job's, and describe the job in the audit place. Raises ConfigError, StorageError."""
    from anonymousnet.pipelines.manifest import MARKER, marker_of

    described = {
        "job": job.id, "run": job.run, "source": address_of(job.source), "release": address_of(job.target),
        "layout": job.layout, "objects": surveyed.objects, "bytes": surveyed.bytes, "skipped": surveyed.skipped,
        "chunks": surveyed.chunks,
    }  # fmt: skip
    hurried(job.audit).create(f"jobs/{job.run}.json", json.dumps(described, indent=1).encode(), "application/json")
    target = hurried(job.target)
    if target.create(MARKER, marker_of(job), "application/json"):
        return
    found = json.loads(target.fetch(MARKER).data)["job"]
    if found != job.id:
        raise ConfigError(
            f"{address_of(job.target)} belongs to job {found}, this is job {job.id}: source, settings, weights, key "
            "or software are others; choose another DST, or go back to what they were"
        )


def _missing(job: Job, surveyed: Survey) -> int:
    """About how many objects are left: chunks without a record, at the size of the average chunk."""
    from anonymousnet.pipelines.bulk_work import done_in

    left = sum(segment.chunks - int(done_in(job, segment).sum()) for segment in surveyed.segments)
    return -(-left * surveyed.objects // surveyed.chunks)


def _run(
    job: Job, surveyed: Survey, config: Config, address: str | None, workers: int | None
) -> Iterator[Tally]:  # fmt: skip
    """The tally of each chunk once its record stands, in any order."""
    import ray
    from ray.data import DataContext

    from anonymousnet.pipelines.bulk_publish import TRIES
    from anonymousnet.pipelines.bulk_work import stream

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told once, by us
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray's own wrapping forgets ours on its way here
    context.target_max_block_size = 1  # a chunk is a block of its own, and so a task of its own
    with ray_session(address) as again, DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how often an actor restarts has no other name yet
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        # A local Ray is told of more CPUs than there are, and a cluster's must leave one for reading and writing.
        most = gpus if config.device == "cuda" else max(1, cpus - 1) if address else os.cpu_count() or 1
        count = max(1, min(workers or most, surveyed.chunks))
        subjects = read_subjects(config.release.subjects)

        def start() -> Iterator[Tally]:
            books = None if config.release.ledger is None else _books(job)
            rows = stream(job, surveyed.segments, count, float(config.device == "cuda"), subjects, books)
            for row in rows.iter_batches(batch_size=None, prefetch_batches=0):
                yield {key: int(sum(values)) for key, values in row.items()}

        yield from persistently(start, TRIES, again)


def _books(job: Job) -> Any:
    """The ledger's writer, on this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from anonymousnet.pipelines.bulk_publish import Books

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Books.options(scheduling_strategy=here).remote(job)  # type: ignore[attr-defined]


def _watched(tallies: Iterator[Tally], hold: Hold, kept: int, objects: int) -> Iterator[Tally]:
    """The tallies, added up for who watches the job from elsewhere. Raises ClusterError when the hold is lost."""
    so_far = Counter({"objects": kept})
    for tally in tallies:
        hold.check()
        so_far.update(tally)
        hold.progress = {**so_far, "of": objects}
        yield tally


@contextmanager
def _graceful() -> Iterator[None]:
    """SIGTERM ends the block with status 143: chunks in hand are let go, and done again by whoever goes on."""
    before = signal.getsignal(signal.SIGTERM)
    _heed_sigterm()
    try:
        yield
    finally:
        with suppress(TypeError, ValueError):  # not set from Python, or not our thread
            signal.signal(signal.SIGTERM, before)


def _heed_sigterm() -> None:
    def stop(*_: object) -> None:
        raise SystemExit(143)

    with suppress(ValueError):  # only the main thread may; others are not asked to stop
        signal.signal(signal.SIGTERM, stop)
