"""A chunk's end: its epsilon is spent, its objects are put, its record is written, in this order."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from anonymousnet.errors import AnonymousNetError, LedgerError, StorageError
from anonymousnet.faults import check_machine
from anonymousnet.pipelines.bulk_plan import Job, Work
from anonymousnet.pipelines.samples import CONTENT_TYPES, Packed, Released, pack
from anonymousnet.pipelines.storage import Storage
from anonymousnet.privacy.ledger import Ledger, Spend

THREADS = 8
"""Requests that one task keeps under way: S3 answers slowly, but many at a time."""
TRIES = 3
"""How often an object is put that can be neither written nor read."""
Answers = list[tuple[str, str] | None]
"""Of each photo: why it may not be released, or None."""


_OF_THE_NAME = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ}
"""How a disk refuses a name that it cannot have, or that is a folder's."""


def reason_of(error: BaseException) -> tuple[str, str]:
    """Kind and reason of what is wrong with a photo, in one line."""
    return type(error).__name__, " ".join(str(error).split())


class Books:
    """The ledger's one writer, where the driver is: a file that many machines wrote would not be safe."""

    def __init__(self, job: Job) -> None:
        """Raises LedgerError."""
        self.ledger = Ledger.of(job.config.release, job.key.value)

    def spend(self, photos: list[list[Spend]]) -> Answers:
        """Record each photo. Raises LedgerError."""
        answers: Answers = []
        for spends in photos:
            try:
                self.ledger.spend_many(spends)
                answers.append(None)
            except LedgerError:
                raise  # without its ledger the whole job stops
            except AnonymousNetError as error:
                answers.append(reason_of(error))
        return answers


def publish(
    job: Job, number: int, work: list[Work], spend: Callable[[list[list[Spend]]], Answers] | None
) -> dict[str, int]:
    """Spend, put, record a chunk, in this order: what is let out is paid for, and what is recorded is there."""
    if spend is not None:
        paid = [photo for one in work for photo in one.photos if photo.spends]
        for photo, refused in zip(paid, spend([photo.spends for photo in paid]), strict=True):
            if refused:
                photo.released, photo.withheld, photo.evidence = None, refused, []
    with ThreadPoolExecutor(THREADS) as pool:
        lines = list(pool.map(partial(_publish, job), work))
    job.audit.create(job.record(number), "".join(json.dumps(line) + "\n" for line in lines).encode())
    return tally(lines)


def tally(lines: list[dict[str, Any]]) -> dict[str, int]:
    """What a chunk's records add up to."""
    photos = [photo for line in lines for photo in line["photos"]]
    withheld = sum(len(line["withheld"]) for line in lines)
    return {
        "objects": len(lines), "photos": len(photos) + withheld, "released": len(photos), "quarantined": withheld,
        "faces": sum(len(photo["faces"]) for photo in photos),
        "left_out": sum(len(line["left_out"]) for line in lines),
        # Records of jobs begun before do not have it.
        "later_frames": sum(photo.get("later_frames", False) for photo in photos),
    }  # fmt: skip


def _publish(job: Job, work: Work) -> dict[str, Any]:
    """Put one object, if anything of it may be let out; its record."""
    released = {photo.name: photo.released for photo in work.photos if photo.released is not None}
    known = {photo.name: photo for photo in work.photos}
    record: dict[str, Any] = {"source": work.entry.name, "object": None, "sha256": None}
    packed = _packed(job, work, released)
    data, names = packed.data, packed.names
    if names:  # a tar sample goes as a whole, so nothing may be left
        suffix = released[""].suffix if work.kind == "photo" else f".{work.entry.name.rsplit('.', 1)[-1].lower()}"
        name = job.released_name(work.entry.name, suffix)
        try:
            put_same(job.target, name, data, CONTENT_TYPES[suffix], dict(work.fetched.encryption))  # type: ignore[union-attr]
            record |= {"object": name, "sha256": hashlib.sha256(data).hexdigest()}
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _OF_THE_NAME:
                raise
            _withhold(work, released, error)
            packed = Packed(b"", names := {}, {})
    record["photos"] = [
        {"photo": names[name], "alias": job.alias(work.entry.name, name),
         "sha256": hashlib.sha256(one.data).hexdigest(), "width": one.width, "height": one.height, "faces": one.faces,
         "account": known[name].account, "later_frames": known[name].later_frames,
         "public": known[name].public, "pictures": known[name].pictures}
        for name, one in released.items() if name in names
    ]  # fmt: skip
    lost = ("SampleWithheld", "another photo of its sample was withheld")
    record["withheld"] = [
        {"photo": photo.name, "kind": kind, "reason": reason}
        for photo in work.photos if photo.name not in names and photo.name not in packed.left_out
        for kind, reason in [photo.withheld or lost]
    ]  # fmt: skip
    record["private"] = [
        {"photo": photo.name, "released": names[photo.name], "face": i, **evidence}
        for photo in work.photos if photo.name in names
        for i, evidence in enumerate(photo.evidence)
    ]  # fmt: skip
    record["left_out"] = [{"member": name, "reason": reason} for name, reason in packed.left_out.items()]
    record["named"] = sorted(set(work.named))
    return record


def _packed(job: Job, work: Work, released: dict[str, Released]) -> Packed:
    """The object with what may be let out; nothing of it where it cannot be put together: all its photos are withheld
    then, whatever they have spent."""
    nothing = Packed(b"", {}, {})
    if not released:
        return nothing
    assert work.fetched is not None
    withheld = {photo.name: photo.withheld for photo in work.photos if photo.withheld}
    try:
        rename = partial(_rename, job, work)
        return pack(work.kind, work.fetched.data, released, withheld, job.config.bulk, rename)
    except Exception as error:  # one odd archive is one withheld object, not the end of the job
        check_machine(error)
        _withhold(work, released, error)
        return nothing


def _withhold(work: Work, released: dict[str, Released], error: Exception) -> None:
    """Nothing of an object is let out, whatever it has spent."""
    for photo in work.photos:
        photo.released, photo.evidence, photo.withheld = None, [], photo.withheld or reason_of(error)
    released.clear()


def _rename(job: Job, work: Work, name: str) -> str:
    """What a sample or row of an archive is called in the release."""
    return name if job.config.bulk.names == "kept" else job.alias(work.entry.name, name)


def put_same(
    place: Storage, name: str, data: bytes, content_type: str = "", encryption: dict[str, str] | None = None
) -> None:
    """Put an object unless it is there; what is there must be the same bytes. Raises StorageError."""
    for _ in range(TRIES):
        if place.create(name, data, content_type, encryption):
            return
        try:
            found = place.fetch(name).data
        except FileNotFoundError:  # another worker was about to write it, and died
            continue
        except OSError as error:
            raise StorageError(f"{name}: the destination has something else there ({error.strerror})") from error
        if found == data:
            return
        raise StorageError(
            f"{name}: the destination holds other bytes than this job makes; remove that object, and let nobody else "
            "write there while a job runs"
        )
    raise StorageError(f"{name}: it can be neither written nor read; check the destination's permissions")
