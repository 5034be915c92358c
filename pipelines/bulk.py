"""One kind of job for a photo, a folder and a bucket: every photo is released or withheld exactly once, whatever dies.

    source (S3 or folder) -> release: photos, manifest/, manifest.json, release.parquet, report.html
                          -> audit:   jobs/, states/, RUN/records/ (private evidence), RUN/quarantine-*.jsonl,
                                      RUN/left-out-*.jsonl, RUN/unmatched.jsonl

It is done in this process or by Ray, to the same bytes. The job's id is a keyed hash of source, configuration, weights,
key and software. The destination belongs to one job: the same command goes on where it was, and another one is refused.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anonymousnet.config import Config
from anonymousnet.data.subjects import read_subjects
from anonymousnet.device import threads
from anonymousnet.errors import ConfigError
from anonymousnet.nets.centerface_file import SHA256
from anonymousnet.pipelines import bulk_hands, bulk_here
from anonymousnet.pipelines.bulk_places import hurried, open_places, replace_name
from anonymousnet.pipelines.bulk_plan import REPORT, STATEMENT, Job, Survey, address_of, survey
from anonymousnet.pipelines.bulk_work import done_in
from anonymousnet.pipelines.jobs import Hold, held
from anonymousnet.pipelines.manifest import FORMAT, MARKER, marker_of, signer_of
from anonymousnet.pipelines.release import publish_release
from anonymousnet.pipelines.software import software
from anonymousnet.pipelines.storage import Folder, Storage
from anonymousnet.privacy.randomness import derive, load_key
from anonymousnet.privacy.release_key import ReleaseKey
from anonymousnet.report.release import Outcome

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer

Tally = dict[str, int]
Progress = Callable[[Iterable[Tally], int, int], Iterable[Tally]]
"""(tallies of finished chunks, objects in all, objects that were done before) -> the same tallies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Outcome):
    """What a job did. Every photo is released or quarantined; all else is skipped, or left out of archives."""

    job: str
    run: str
    kept: int
    """Objects that were done before this command."""
    seconds: float
    photos_per_second: float
    """Of what this command did; the start-up included."""
    manifest: str
    report: str
    signer: str
    """Public key of the manifest's signature, hex."""
    private: str
    """Where the audit place has what was withheld and left out, and the records."""
    unmatched: int
    """Lines of `release.subjects` that name no photo; the audit place has them."""

    @property
    def whole(self) -> bool:
        """Whether all that was in the source is in the release."""
        return not (self.quarantined or self.skipped or self.left_out or self.later_frames)


def anonymize(
    src: str | Path, dst: str | Path, config: Config, audit: str | Path | None = None, *, address: str | None = None,
    endpoint_url: str | None = None, workers: int | None = None, progress: Progress = lambda done, *_: done,
) -> Summary:  # fmt: skip
    """De-identify every photo of `src`, a photo, a folder or s3://bucket/prefix, into `dst`, a folder or s3://...

    Ray does it with `workers`, at most so many processes [one per CPU, or per GPU], on the cluster at `address` [this
    machine]; and this process alone where neither is given and `src` is on this machine. SIGTERM ends it with status
    143; the same call then goes on.

    Raises StorageError (a place refuses), ConfigError (places overlap, `dst` is another job's), ClusterError (no Ray,
    workers die again and again, another driver is at it), DataError (the source changed), MachineError, LedgerError.
    """
    started = time.monotonic()
    threads()  # a setting that nobody can work with is told now
    source, target, private = open_places(src, dst, audit, endpoint_url)
    surveyed = survey(source)
    config, anonymizer = _resolved(config, address)
    job = _job(source, target, private, surveyed, config, anonymizer)
    _claim(job, surveyed)
    with _graceful(), held(hurried(private), job.run) as hold:  # its beats come again, and its end is not waited for
        for place in (target, private):
            place.sweep()
        done_now: Counter[str] = Counter()
        kept = surveyed.objects - _missing(job, surveyed)
        hold.progress = {"objects": kept, "of": surveyed.objects}
        if kept < surveyed.objects:
            subjects = read_subjects(config.release.subjects)
            if isinstance(source, Folder) and workers is None and address is None:
                tallies = bulk_here.run(job, surveyed, subjects, hold.owner, anonymizer)
            else:
                from anonymousnet.pipelines import bulk_ray  # Ray takes seconds

                tallies = bulk_ray.run(job, surveyed, subjects, hold.owner, address, workers)
            for tally in progress(_watched(tallies, hold, kept, surveyed.objects), surveyed.objects, kept):
                done_now.update(tally)
            _heed_sigterm()  # Ray has left without it
        hold.check()
        done, unmatched = publish_release(job, surveyed, anonymizer)
        bulk_hands.clear(job)
        for place in (target, private):
            place.sweep()
        hold.progress = {"objects": surveyed.objects, "of": surveyed.objects, "released": done.released}
    seconds = time.monotonic() - started
    return Summary(
        **{name: getattr(done, name) for name in Outcome.__dataclass_fields__},
        job=job.id, run=job.run, kept=surveyed.objects - done_now["objects"], seconds=round(seconds, 3),
        photos_per_second=round(done_now["photos"] / seconds, 3),
        manifest=address_of(replace_name(target, STATEMENT)), report=address_of(replace_name(target, REPORT)),
        signer=signer_of(job.key.value), private=address_of(replace_name(private, job.run)), unmatched=unmatched,
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
    from anonymousnet.pipelines import bulk_ray

    return bulk_ray.gpus(address)


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
        "format": FORMAT, "source": surveyed.fingerprint, "layout": surveyed.layout,
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
    left = sum(segment.chunks - int(done_in(job, segment).sum()) for segment in surveyed.segments)
    return -(-left * surveyed.objects // surveyed.chunks)


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
