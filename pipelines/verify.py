"""A release against what it says of itself: every signature, every hash, nothing missing, nothing added."""

from __future__ import annotations

import hashlib
import io
import os
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

from anonymousnet.data.archives import check_archive
from anonymousnet.errors import DataError, StorageError
from anonymousnet.pipelines.bulk_plan import RESERVED, STATEMENT, address_of
from anonymousnet.pipelines.manifest import opened
from anonymousnet.pipelines.samples import check_kept
from anonymousnet.pipelines.storage import PATIENT, Folder, Storage, storage_of

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
    """Whether it is the one that was named; None where none was: then anybody may have signed."""
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
            getattr(self, what).append(name.encode("utf-8", "backslashreplace").decode())  # it need not be UTF-8


def verify(
    uri: str, endpoint_url: str | None = None, signer: str | None = None, progress: Progress = lambda names, _: names
) -> Findings:
    """Read a whole release and compare. Raises StorageError when there is none, DataError when the statement is false.

    Links are extra, whatever they lead to: what is behind one may change without the release. Memory does not grow with
    the release: names and hashes wait on disk.
    """
    place = storage_of(uri, endpoint_url, PATIENT)
    try:
        statement, public = _statement(storage_of(uri, endpoint_url).fetch(STATEMENT).data)  # a mistake is told at once
    except FileNotFoundError as error:
        raise StorageError(
            f"no {STATEMENT} in {address_of(place)}: this is no release, or its job has not finished; check the "
            "address, or run `anonymousnet anonymize` again"
        ) from error
    except OSError as error:
        raise _unreadable(place, STATEMENT, error) from error
    found = Findings(statement["job"], public, None if signer is None else signer.lower() == public)
    found.counts = statement["counts"]
    with tempfile.TemporaryDirectory() as folder, sqlite3.connect(Path(folder, "names")) as names:
        names.execute("CREATE TABLE objects (name BLOB PRIMARY KEY, sha256 TEXT, seen INTEGER DEFAULT 0) WITHOUT ROWID")
        _expect(place, statement, names, found)
        total = names.execute("SELECT count(*) FROM objects").fetchone()[0]
        for name in progress(_compared(place, names, found), total):
            found.objects += bool(name)
        for (key,) in names.execute("SELECT name FROM objects WHERE NOT seen ORDER BY name"):
            found.note("missing", os.fsdecode(key))
    return found


def _statement(data: bytes) -> tuple[dict[str, Any], str]:
    """What a manifest.json states, and who signed it. Raises DataError: anybody can sign anything."""
    try:
        statement, public = opened(data)
        job, counts, files = statement["job"], statement["counts"], statement["files"]
        sound = isinstance(job, str) and all(isinstance(count, int) for count in counts.values())
        sound = sound and all(isinstance(name, str) and isinstance(sha256, str) for name, sha256 in files.items())
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{STATEMENT}: expected a statement of a release, found another; trust none of it") from error
    if not sound:
        raise DataError(f"{STATEMENT}: expected names and hashes of files, found something else; trust none of it")
    for name in files:
        _check_name(name, STATEMENT)
    return statement, public


def _check_name(name: str, where: str) -> None:
    """Raise DataError for a name that no release has: it might lead out of it."""
    try:
        check_kept(name)
    except StorageError as error:
        raise DataError(f"{where}: signed, but not a release's ({error}); trust none of it") from error


def _expect(place: Storage, statement: dict[str, Any], names: sqlite3.Connection, found: Findings) -> None:
    """Write down every object that the statement speaks of. A part that is not the signed one is not believed."""
    for name, sha256 in statement["files"].items():
        names.execute("INSERT INTO objects (name, sha256) VALUES (?, ?)", (name.encode(), sha256))
        if not name.startswith(f"{RESERVED}/part-"):
            continue
        try:
            data = place.fetch(name).data
        except FileNotFoundError:
            continue  # noted as missing at the end
        except OSError as error:
            raise _unreadable(place, name, error) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            continue  # noted as changed when it is compared
        for row in _rows(data, name):
            _check_name(row[0], name)
            names.execute("INSERT OR IGNORE INTO objects (name, sha256) VALUES (?, ?)", (row[0].encode(), row[1]))
            found.photos += 1


def _rows(data: bytes, name: str) -> list[tuple[str, str]]:
    """(object, SHA-256) of each photo in a part of the manifest. Raises DataError."""
    try:
        check_archive("parquet", data)
        table = pq.read_table(io.BytesIO(data), columns=["object", "object_sha256"])
        columns = [table[column].cast(pa.string()).to_pylist() for column in ("object", "object_sha256")]
    except (DataError, pa.ArrowException, KeyError, OSError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{name}: signed, but not readable ({said}); it was released damaged") from error
    rows = list(zip(*columns, strict=True))
    if any(None in row for row in rows):
        raise DataError(f"{name}: expected a name and a hash in every row, found one without; it was released damaged")
    return rows


def _links(place: Storage) -> Iterator[str]:
    """Names of what is neither a file nor a folder: links, also to folders, pipes, devices. None in a bucket."""
    if not isinstance(place, Folder):
        return
    for here, folders, files in os.walk(place.root):
        for name in (*folders, *files):
            path = Path(here, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                yield path.relative_to(place.root).as_posix()


def _compared(place: Storage, names: sqlite3.Connection, found: Findings) -> Iterator[str]:
    """Every object that is there and known, once it is compared; extra ones are noted, not given."""

    def digest(name: str) -> tuple[str, str, int]:
        try:
            data = place.fetch(name).data
        except FileNotFoundError:
            return name, "", 0
        except OSError as error:
            raise _unreadable(place, name, error) from error
        return name, hashlib.sha256(data).hexdigest(), len(data)

    links = set(_links(place))
    for name in sorted(links):
        found.note("extra", name)
    listed = (entry.name for entry in place.scan() if entry.name != STATEMENT and entry.name not in links)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(listed, 64)):
            known = {name: row[0] for name in batch if (row := _look(names, name))}
            for name in batch:
                if name not in known:
                    found.note("extra", name)
            for name, sha256, size in pool.map(digest, known):
                names.execute("UPDATE objects SET seen = 1 WHERE name = ?", (os.fsencode(name),))
                if sha256 != known[name]:
                    found.note("changed" if sha256 else "missing", name)
                found.bytes += size
                yield name


def _unreadable(place: Storage, name: str, error: OSError) -> StorageError:
    return StorageError(f"cannot read {name!r} in {address_of(place)}: {error.strerror}; check disk and rights")


def _look(names: sqlite3.Connection, name: str) -> Any:
    return names.execute("SELECT sha256 FROM objects WHERE name = ?", (os.fsencode(name),)).fetchone()
