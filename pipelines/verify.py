"""A release against what it says of itself: every signature, every hash, nothing missing, nothing added."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anonymousnet.errors import DataError, StorageError
from anonymousnet.pipelines.bulk_plan import RESERVED, STATEMENT, address_of
from anonymousnet.pipelines.manifest import opened
from anonymousnet.pipelines.storage import PATIENT, Storage, storage_of

NAMED = 1000
"""Most objects of a kind that are named; all are counted."""
THREADS = 8

Progress = Callable[[Iterable[str], int], Iterable[str]]


@dataclass(slots=True)
class Findings:
    """What verify has to say."""

    job: str
    signer: str
    """Public key, hex: compare it with what the publisher says, or give it beforehand."""
    expected_signer: bool | None
    """Whether it is the one that was given; None where none was."""
    objects: int = 0
    photos: int = 0
    bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """As the statement has them: photos, released, quarantined, faces, skipped."""
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=lambda: {"missing": 0, "changed": 0, "extra": 0})

    @property
    def whole(self) -> bool:
        """Whether everything is as it was released."""
        return self.expected_signer is not False and not any(self.totals.values())

    def note(self, what: str, name: str) -> None:
        """Count, and as long as there are few name, one object."""
        self.totals[what] += 1
        if self.totals[what] <= NAMED:
            getattr(self, what).append(name)


def verify(
    uri: str, endpoint_url: str | None = None, signer: str | None = None, progress: Progress = lambda names, _: names
) -> Findings:
    """Read a whole release and compare. Raises StorageError when there is none, DataError when the statement is false.

    Memory does not grow with the release: names and hashes wait on disk.
    """
    place = storage_of(uri, endpoint_url, PATIENT)
    try:
        statement, public = opened(storage_of(uri, endpoint_url).fetch(STATEMENT).data)  # a mistake is told at once
    except FileNotFoundError as error:
        raise StorageError(
            f"no {STATEMENT} in {address_of(place)}: this is no release, or its job has not finished; check the "
            "address, or run `anonymousnet anonymize` again"
        ) from error
    found = Findings(statement["job"], public, None if signer is None else signer.lower() == public)
    found.counts = statement["counts"]
    with tempfile.TemporaryDirectory() as folder, sqlite3.connect(Path(folder, "names")) as names:
        names.execute("CREATE TABLE objects (name TEXT PRIMARY KEY, sha256 TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID")
        _expect(place, statement, names, found)
        total = names.execute("SELECT count(*) FROM objects").fetchone()[0]
        for name in progress(_compared(place, names, found), total):
            found.objects += bool(name)
        for (name,) in names.execute("SELECT name FROM objects WHERE NOT seen ORDER BY name"):
            found.note("missing", name)
    return found


def _expect(place: Storage, statement: dict[str, Any], names: sqlite3.Connection, found: Findings) -> None:
    """Write down every object that the statement speaks of. A part that is not the signed one is not believed."""
    for name, sha256 in statement["files"].items():
        names.execute("INSERT INTO objects (name, sha256) VALUES (?, ?)", (name, sha256))
        if not name.startswith(f"{RESERVED}/part-"):
            continue
        try:
            data = place.fetch(name).data
        except FileNotFoundError:
            continue  # noted as missing at the end
        if hashlib.sha256(data).hexdigest() != sha256:
            continue  # noted as changed when it is compared
        try:
            table = pq.read_table(io.BytesIO(data), columns=["object", "object_sha256"])
        except pa.ArrowException as error:
            raise DataError(f"{name}: signed, but not readable ({error}); it was released damaged") from error
        rows = zip(table["object"].to_pylist(), table["object_sha256"].to_pylist(), strict=True)
        names.executemany("INSERT OR IGNORE INTO objects (name, sha256) VALUES (?, ?)", rows)
        found.photos += len(table)


def _compared(place: Storage, names: sqlite3.Connection, found: Findings) -> Iterator[str]:
    """Every object that is there and known, once it is compared; extra ones are noted, not given."""

    def digest(name: str) -> tuple[str, str, int]:
        try:
            data = place.fetch(name).data
        except FileNotFoundError:
            return name, "", 0
        return name, hashlib.sha256(data).hexdigest(), len(data)

    listed = (entry.name for entry in place.scan() if entry.name != STATEMENT)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(listed, 64)):
            known = {name: row[0] for name in batch if (row := _look(names, name))}
            for name in batch:
                if name not in known:
                    found.note("extra", name)
            for name, sha256, size in pool.map(digest, known):
                names.execute("UPDATE objects SET seen = 1 WHERE name = ?", (name,))
                if sha256 != known[name]:
                    found.note("changed" if sha256 else "missing", name)
                found.bytes += size
                yield name


def _look(names: sqlite3.Connection, name: str) -> Any:
    return names.execute("SELECT sha256 FROM objects WHERE name = ?", (name,)).fetchone()
