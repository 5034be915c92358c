"""What a job is, and how its source is cut into pieces that do not depend on who does them.

A *chunk* is the unit that is done whole or again: some photos in the order of the listing, or one archive. A *segment*
is a run of chunks that one task lists, reads and sends on. The driver keeps segments alone, never a listing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from anonymousnet.config import Config
from anonymousnet.data.celeba import ALIGNED
from anonymousnet.data.content import FIRST_BYTES, is_picture
from anonymousnet.errors import DataError, MachineError, StorageError
from anonymousnet.pipelines.samples import Item, Released, check_kept, kind_of, same_suffix
from anonymousnet.pipelines.source import LISTS, fetch_list, is_list
from anonymousnet.pipelines.storage import Entry, Fetched, Storage
from anonymousnet.privacy.ledger import Spend
from anonymousnet.privacy.randomness import derive
from anonymousnet.privacy.release_key import ReleaseKey

CHUNK, CHUNK_BYTES = 16, 32 << 20
"""A chunk ends with this many photos, or bytes of photos."""
SEGMENT, SEGMENTS = 16, 2048
"""Chunks of a segment to begin with; with more segments than these, every two become one."""
_WRAP = 1 << 256
RESERVED = "manifest"
"""Folder of the release that is ours."""
STATEMENT, TABLE, REPORT = f"{RESERVED}.json", "release.parquet", "report.html"
"""Files of the release that are ours."""
LONGEST_NAME, LONGEST_PATH = 255, 1024
"""Bytes of a part of a name, on all disks, and of a whole one, in S3."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker must know."""

    id: str
    """Keyed hash of source, configuration, weights, key and software: same id, same bytes."""
    run: str
    """The id and the destination: what the audit place files it under."""
    source: Storage
    target: Storage
    audit: Storage
    layout: str
    """celeba or photos"""
    config: Config
    key: ReleaseKey
    """Each machine reads it from its own file; it is in no pickle of the job."""
    weights: dict[str, str]
    form: str
    """Arithmetic of the networks: Runner.form."""

    def record(self, chunk: int) -> str:
        """Name of a chunk's record in the audit place."""
        return f"{self.run}/records/{chunk:08}.jsonl"

    def alias(self, *name: str) -> str:
        """A name that only the key's holder can lead back to the source's."""
        labels = [one.encode("utf-8", "surrogateescape") for one in name]
        return derive(self.key.value, "alias", self.config.release.name, *labels).hex()[:32]

    def released_name(self, name: str, suffix: str) -> str:
        """What an object of the source is called in the release."""
        if self.config.bulk.names == "hashed":
            folder = {"photo": ALIGNED if self.layout == "celeba" else "photos"}.get(str(kind_of(name)), "shards")
            return f"{folder}/{self.alias(name)}{suffix}"
        kept = name
        if not same_suffix(name, suffix):
            # Where the format changes, so does the name; it must be no other object's.
            kept = name + suffix
            try:
                taken = self.source.has(kept)
            except StorageError as error:
                raise MachineError(str(error)) from error  # the storage's fault, and not the name's
            if taken:
                kept = f"{name}.{self.alias(name)[:8]}{suffix}"
        check_kept(kept)
        if PurePosixPath(kept).parts[0] in (RESERVED, STATEMENT, TABLE, REPORT):
            raise StorageError(f"{name}: a name of the release's own cannot be kept; rename it, or use hashed names")
        if len(kept.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in kept.split("/")):
            raise StorageError(
                f"{kept}: expected a name of up to {LONGEST_NAME} bytes, {LONGEST_PATH} with its folders, got a longer "
                "one; shorten it, or use hashed names"
            )
        return kept


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit that is done whole or again."""

    number: int
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class Photo:
    """One photo of an object: released or withheld. PRIVATE."""

    name: str
    released: Released | None = None
    withheld: tuple[str, str] | None = None
    """Kind of error, and the reason."""
    spends: list[Spend] = field(default_factory=list)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    account: str = ""
    """Whose epsilon it is: public. Empty without faces."""
    public: dict[str, Any] = field(default_factory=dict)
    """Public evidence that all its faces share."""
    pictures: list[str] = field(default_factory=list)
    """JPEGs of its faces as they were painted, in base64; of the photos that a report shows."""
    later_frames: bool = False
    """Whether the source's file holds further frames or pages, which are left out."""


@dataclass(slots=True)
class Work:
    """One object of the source on its way through. PRIVATE."""

    entry: Entry
    kind: str
    fetched: Fetched | None
    photos: list[Photo]
    items: list[Item] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    """Lines of the list of subjects that name one of its photos."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Chunks `first` to `first + chunks - 1`."""

    first: int
    chunks: int
    after: str
    """The listing goes on behind this name."""
    digest: int
    """Sum of its chunks' digests, so that segments can be joined."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a source holds, its names left out."""

    layout: str
    fingerprint: str
    objects: int
    bytes: int
    skipped: int
    """Objects that are neither photos nor archives: never read, never released."""
    chunks: int
    segments: tuple[Segment, ...]


def survey(place: Storage) -> Survey:
    """List the whole source once, page by page. Raises StorageError when it cannot be listed or holds no photo.

    Files without a suffix are photos if they begin so.
    """
    layout = "celeba" if _is_celeba(place) else "photos"
    whole = hashlib.sha256(layout.encode())
    objects = size = seen = chunks = part = 0
    segments: list[Segment] = []
    span, first, after, last = SEGMENT, 0, "", ""

    def counted() -> Iterator[Entry]:
        nonlocal seen
        for entry in place.scan():
            seen += not (layout == "celeba" and is_list(entry.name))  # those are read
            yield entry

    for chunk in cut(select(place, counted(), layout)):
        if chunk.number - first == span:
            segments.append(Segment(first, span, after, part))
            first, after, part = chunk.number, last, 0
            if len(segments) == SEGMENTS:
                segments, span = [_joined(*segments[i : i + 2]) for i in range(0, SEGMENTS, 2)], 2 * span
        part = (part + _digest(chunk)) % _WRAP
        whole.update(_digest(chunk).to_bytes(32, "big"))
        objects, size, chunks = objects + len(chunk.entries), size + sum(e.size for e in chunk.entries), chunks + 1
        last = chunk.entries[-1].name
    if not chunks:
        raise StorageError(
            f"no photos in {address_of(place)}; expected files such as .jpg, .png, .webp, .tar (shards) or .parquet"
        )
    segments.append(Segment(first, chunks - first, after, part))
    return Survey(layout, whole.hexdigest(), objects, size, seen - objects, chunks, tuple(segments))


def chunks_of(place: Storage, layout: str, segment: Segment) -> list[Chunk]:
    """The chunks of one segment, listed anew. Raises DataError when the source is no longer what was surveyed."""
    listed = cut(select(place, place.scan(segment.after), layout), segment.first)
    found = list(islice(listed, segment.chunks))
    if len(found) != segment.chunks or sum(map(_digest, found)) % _WRAP != segment.digest:
        raise DataError(
            f"{address_of(place)}: photos were added, removed or changed since the job began; leave the source alone "
            "while a job runs, and start again: what is there now is another job"
        )
    return found


def select(place: Storage, entries: Iterable[Entry], layout: str) -> Iterator[Entry]:
    """The photos and archives among a listing; in CelebA's layout its aligned images alone."""
    return (entry for entry in entries if not _reason(place, entry, layout))


def left_out(place: Storage, layout: str) -> Iterator[tuple[str, str]]:
    """(name, reason) of what a source holds beside its photos and archives: it is not in the release. PRIVATE."""
    for entry in place.scan():
        reason = _reason(place, entry, layout)
        if reason and not (layout == "celeba" and is_list(entry.name)):
            yield entry.name, reason


def _reason(place: Storage, entry: Entry, layout: str) -> str:
    """Why an object is left out; empty for photos and archives, by their names or, without a suffix, first bytes."""
    if layout == "celeba" and not entry.name.startswith(f"{ALIGNED}/"):
        return f"in CelebA's layout the photos lie in {ALIGNED}"
    if kind_of(entry.name):
        return ""
    if any(part.startswith(".") and part.strip(".") for part in PurePosixPath(entry.name).parts):
        return "a hidden file"
    if entry.fault:
        return entry.fault
    if PurePosixPath(entry.name).suffix or entry.name.endswith("/"):
        return "neither a photo nor an archive by its name"
    if not entry.size or not is_picture(place.begin(entry.name, FIRST_BYTES)):
        return "it does not begin as a photo"
    return ""


def cut(entries: Iterable[Entry], number: int = 0) -> Iterator[Chunk]:
    """Entries as chunks; where one begins depends on what follows it alone, so any segment can be cut by itself."""
    waiting: list[Entry] = []
    size = 0
    for entry in entries:
        alone = kind_of(entry.name) not in ("photo", None)
        if waiting and (alone or size + entry.size > CHUNK_BYTES):
            yield Chunk(number, tuple(waiting))
            waiting, size, number = [], 0, number + 1
        waiting.append(entry)
        size += entry.size
        if alone or len(waiting) == CHUNK:
            yield Chunk(number, tuple(waiting))
            waiting, size, number = [], 0, number + 1
    if waiting:
        yield Chunk(number, tuple(waiting))


def address_of(place: Any) -> str:
    """A place as a user writes it."""
    return f"s3://{place.bucket}/{place.prefix}" if hasattr(place, "bucket") else str(place.path)


def _is_celeba(place: Storage) -> bool:
    with TemporaryDirectory() as temporary:
        if fetch_list(place, LISTS[0], Path(temporary)) is None:
            return False
    return next(place.scan(below=f"{ALIGNED}/"), None) is not None


def _digest(chunk: Chunk) -> int:
    lines = f"{chunk.number}\n" + "".join(f"{e.name}\0{e.size}\0{e.version}\n" for e in chunk.entries)
    return int.from_bytes(hashlib.sha256(lines.encode("utf-8", "surrogateescape")).digest(), "big")


def _joined(one: Segment, other: Segment) -> Segment:
    return Segment(one.first, one.chunks + other.chunks, one.after, (one.digest + other.digest) % _WRAP)
