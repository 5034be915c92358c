"""The privacy ledger: how much epsilon each subject has spent, over all releases, whatever crashes in between.

    with Ledger(path, budget=20.0, key=load_key(...)) as ledger:
        ledger.spend(subject, photo_sha256 + mechanism.fingerprint, "summer-2026", mechanism.epsilons)   # first
        ...                                                                              # then release the photo

- A subject is a person, or whatever stands for one: what is spent on all faces of all photos of one subject adds up
  (sequential composition). Disjoint subjects do not: `worst` is what holds for everybody (parallel composition),
  `total` is the plain sum.
- A photo of which nobody knows whose it is brings a sketch of what surrounds its faces (`accounts.py`): the subject is
  then the earlier photo with nearly the same sketch, or the photo itself. All its faces may be of one person, so they
  add up too.
- The same photo in the same release again is a replay: its randomness is the same, so is its answer, and it
spends
  nothing. With *other* epsilons it would be a second answer from the same randomness, for which no
  composition theorem holds: that is refused, and a release whose settings change needs another name.
- `spend` returns after the entry is on disk (SQLite, WAL, synchronous=FULL). Spend first, then release: a
process killed
  in between has spent too much, never too little.
- Many processes of one machine may write at once. WAL does not work on network file systems: keep the ledger
on a local
  disk, or give each node its own and disjoint subjects.
- What is released unprotected (kept attributes, strengths below 1) costs infinitely much: it is refused, unless the
  ledger is told to write it down, and always under a budget.
- Subjects and photos are stored as hashes keyed with the release key, and sketches under a cipher of it, so the file
  names and shows nobody. The view `entries` lists subject, release, attribute group and epsilon for auditors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

import numpy as np

from anonymousnet.config import ReleaseConfig
from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import claim_name, seal_file, seal_path
from anonymousnet.errors import BudgetExceeded, ConfigError, LedgerError, PrivacyError
from anonymousnet.privacy import accounts
from anonymousnet.privacy.randomness import check_key, derive

VERSION = 2
"""Version of the tables; any other is refused. Version 1 had an account for each face's place in the photo, so that one
person had as many as they had places; what those add up to cannot be told any more."""
BUSY_SECONDS = 30.0
"""How long to wait for other writers before giving up."""
CHECKED_BYTES = 256 * 2**20
"""Ledgers up to this size are checked page by page when they are opened; larger ones where they are read."""
_APPLICATION = 0x616E6F6E  # "anon", in the file's header
_SAME = 1e-6
"""Epsilons closer than this are the same settings: solving them rounds differently on different machines."""
_SCHEMA = """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE settings (id INTEGER PRIMARY KEY, epsilons TEXT NOT NULL UNIQUE, total REAL NOT NULL);
    CREATE TABLE spends (subject BLOB NOT NULL, release TEXT NOT NULL, photo BLOB NOT NULL,
        setting INTEGER NOT NULL REFERENCES settings, PRIMARY KEY (subject, release, photo)) WITHOUT ROWID;
    CREATE TABLE aliases (alias BLOB PRIMARY KEY, subject BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE sketches (id INTEGER PRIMARY KEY, subject BLOB NOT NULL, sealed BLOB NOT NULL);
    CREATE TABLE bands (band BLOB NOT NULL, sketch INTEGER NOT NULL REFERENCES sketches, PRIMARY KEY (band, sketch))
        WITHOUT ROWID;
    CREATE VIEW entries AS SELECT hex(subject) AS subject, release, key AS attribute_group,
        CASE WHEN max(value) = 9e999 THEN 9e999 ELSE sum(value) END AS epsilon
        FROM spends JOIN settings ON settings.id = setting, json_each(epsilons) GROUP BY subject, release, key;
"""
_SUM = "CASE WHEN max(total) = 9e999 THEN 9e999 ELSE sum(total) END"  # SQLite's own sum of infinities is NULL at times


class Spend(NamedTuple):
    """One face of one subject in one photo, about to be released."""

    subject: bytes
    """Whose epsilon it is; with a sketch, only where no earlier photo of its scope is nearly the same."""
    photo: bytes
    release: str
    epsilons: Mapping[str, float]
    """Attribute group -> epsilon."""
    budget: float | None = None
    """Most epsilon that this subject may ever spend; None: the ledger's own budget."""
    sketch: bytes | None = None
    """Of the photo, where its subject is not known by name."""
    scope: bytes = b""
    """Near-duplicates are looked for among sketches of the same scope."""


class Ledger:
    """One ledger file, made if it is missing. Use it from any thread, but open it anew after a fork."""

    def __init__(self, path: Path, budget: float | None = None, *, key: bytes, allow_unprotected: bool = False) -> None:
        """`budget`: the most epsilon any one subject may ever spend; None: no limit. `key`: 32 secret bytes.

        `allow_unprotected`: write infinite epsilons down instead of refusing them, where there is no budget.

        Raises LedgerError if the file is locked, damaged, from a newer version, or of another key.
        """
        if budget is not None and not budget > 0:
            raise PrivacyError(f"ledger budget: expected more than 0, got {budget:g}; None means no limit")
        self.path = resolve_path(path)
        self.budget = budget
        self._key, self._allow_unprotected = check_key(key), allow_unprotected
        self._lock = threading.Lock()
        with self._explained():
            if not self.path.exists():
                _create(self.path, derive(key, "ledger key"))
            self._db = _open(self.path)
            try:
                self._check()
                seal_path(self.path)
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def of(cls, release: ReleaseConfig, key: bytes) -> Ledger:
        """The ledger that a configuration names. Raises as above; ConfigError where it names none."""
        if release.ledger is None:
            raise ConfigError("expected a ledger, got none; set release.ledger to a file")
        return cls(release.ledger, release.budget, key=key, allow_unprotected=release.allow_unprotected)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; entries are safe with or without this."""
        self._db.close()

    def spend(self, subject: bytes, photo: bytes, release: str, epsilons: Mapping[str, float]) -> float:
        """Record a release about to be made; return the epsilon spent now, 0 for a replay.

        Raises BudgetExceeded, before anything is written, if the subject would exceed the budget;
        PrivacyError for epsilons that cannot be accounted for, or a replay with other epsilons; LedgerError
        if the file cannot be used.
        """
        return self.spend_many([Spend(subject, photo, release, epsilons)])[0]

    def spend_many(self, spends: Iterable[Spend]) -> list[float]:
        """Record a batch in one transaction, all of it or, if one of them raises as in `spend`, nothing."""
        with self._explained(), self._lock, self._transaction():
            return [self._spend(i, item) for i, item in enumerate(spends)]

    def spent(self, subject: bytes) -> float:
        """Epsilon a subject has spent over all releases."""
        with self._explained(), self._lock:
            return self._spent(self._hashed("subject", subject))

    def total(self) -> float:
        """Sum over all subjects: bookkeeping, not a guarantee."""
        with self._explained(), self._lock:
            return self._number(f"SELECT {_SUM} FROM spends JOIN settings ON id = setting")

    def worst(self) -> float:
        """Most epsilon any subject has spent: the guarantee that holds for everybody."""
        with self._explained(), self._lock:
            each = f"SELECT {_SUM} AS spent FROM spends JOIN settings ON id = setting GROUP BY subject"
            return self._number(f"SELECT max(spent) FROM ({each})")

    def _spend(self, index: int, item: Spend) -> float:
        subject, photo = self._subject(item), self._hashed("photo", item.photo)
        setting, total = self._setting(item.epsilons)
        earlier = self._db.execute(
            "SELECT epsilons FROM spends JOIN settings ON id = setting WHERE subject = ? AND release = ? AND photo = ?",
            (subject, item.release, photo),
        ).fetchone()
        if earlier is not None:
            _require_same(json.loads(earlier[0]), item)
            return 0.0
        spent, budget = self._spent(subject), self.budget if item.budget is None else item.budget
        if budget is not None and spent + total > budget + 1e-9:
            raise BudgetExceeded(
                f"release '{item.release}', photo {index + 1} of the batch: its subject has spent epsilon "
                f"{spent:.4g} of {budget:.4g} and would spend {total:.4g} more; lower obfuscate.epsilon to at "
                f"most {max(budget - spent, 0):.4g} for all its faces together, or leave the photo out"
            )
        self._db.execute("INSERT INTO spends VALUES (?, ?, ?, ?)", (subject, item.release, photo, setting))
        return total

    def _setting(self, epsilons: Mapping[str, float]) -> tuple[int, float]:
        """Identity and sum of these epsilons, written down if they are new."""
        most = math.inf if self._allow_unprotected else sys.float_info.max
        wrong = [name for name, epsilon in epsilons.items() if not 0 <= epsilon <= most]
        if wrong or not epsilons:
            raise PrivacyError(
                f"epsilons: expected finite numbers of 0 and more, got {dict(epsilons)}; what is released unprotected "
                "costs infinitely much: keep no attribute and set synthesize.strength to 1, or set "
                "release.allow_unprotected to have it written down so"
            )
        # JSON has no infinity, but what is beyond the largest number is read as one, by SQLite as by Python.
        text = json.dumps(dict(sorted(epsilons.items()))).replace("Infinity", "9e999")
        total = math.fsum(epsilons.values())
        self._db.execute("INSERT OR IGNORE INTO settings (epsilons, total) VALUES (?, ?)", (text, total))
        row = self._db.execute("SELECT id FROM settings WHERE epsilons = ?", (text,)).fetchone()
        return int(row[0]), total

    def _spent(self, hashed: bytes) -> float:
        return self._number(f"SELECT {_SUM} FROM spends JOIN settings ON id = setting WHERE subject = ?", hashed)

    def _subject(self, item: Spend) -> bytes:
        """Whose epsilon it is, and from now on stays: of one photo always the same."""
        if item.sketch is None:
            return self._hashed("subject", item.subject)
        own = self._hashed("photo's account", item.scope, item.subject)
        known = self._db.execute("SELECT subject FROM aliases WHERE alias = ?", (own,)).fetchone()
        if known is not None:
            return bytes(known[0])
        bands = [
            derive(self._key, "ledger", "band", item.scope, str(i), band)[:8]
            for i, band in enumerate(accounts.bands(item.sketch))
        ]
        subject = self._nearest(item.sketch, bands)
        if subject is None:
            subject, sealed = own, self._sealed(own, item.sketch)
            row = self._db.execute("INSERT INTO sketches (subject, sealed) VALUES (?, ?)", (own, sealed)).lastrowid
            self._db.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(band, row) for band in bands])
        self._db.execute("INSERT INTO aliases VALUES (?, ?)", (own, subject))
        return subject

    def _nearest(self, sketch: bytes, bands: list[bytes]) -> bytes | None:
        """The subject of the sketch that is most alike, if any is near enough."""
        rows = self._db.execute(
            "SELECT DISTINCT subject, sealed FROM bands JOIN sketches ON sketches.id = sketch WHERE band IN "
            f"({', '.join('?' * len(bands))})", bands,
        ).fetchall()  # fmt: skip
        found = accounts.distances(sketch, [self._sealed(who, sealed) for who, sealed in rows])
        nearest = int(found.argmin()) if rows else 0
        return bytes(rows[nearest][0]) if rows and found[nearest] <= accounts.NEAR else None

    def _sealed(self, subject: bytes, text: bytes) -> bytes:
        """A sketch under a pad that serves for this subject's alone; and its own inverse."""
        pad = hashlib.shake_256(derive(self._key, "ledger", "sketch", subject)).digest(len(text))
        return bytes(np.frombuffer(text, np.uint8) ^ np.frombuffer(pad, np.uint8))

    def _number(self, query: str, *values: bytes) -> float:
        return float(self._db.execute(query, values).fetchone()[0] or 0.0)

    def _hashed(self, what: str, *values: bytes) -> bytes:
        return derive(self._key, "ledger", what, *values)[:16]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")  # the write lock comes before the first look at what was spent
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's and the system's errors into LedgerErrors that say what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise LedgerError(
                    f"ledger {self.path}: another process has held it for more than {BUSY_SECONDS:g} s; end "
                    "that process (`fuser` names it) or wait, then run again: what is released will spend nothing"
                ) from error
            raise LedgerError(f"ledger {self.path}: {error}; check the disk's space and the permissions") from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"ledger {self.path}: damaged ({error}); restore it from a backup. Without one, what subjects "
                "have spent is unknown: move the file away only if you accept that they start at 0"
            ) from error
        except OSError as error:
            raise LedgerError(f"ledger {self.path}: {error.strerror}; give a path this user may write") from error

    def _check(self) -> None:
        """Raise unless this is a whole ledger of this version and key."""
        version = self._number("PRAGMA user_version")
        if self._number("PRAGMA application_id") != _APPLICATION:
            raise LedgerError(f"ledger {self.path}: this is another program's database; give another path")
        if version == 1:
            raise LedgerError(
                f"ledger {self.path}: version 1 counted each place in a photo by itself, so what a person has spent "
                "cannot be told from it; start a new ledger, with a budget less what has been released so far"
            )
        if version != VERSION:
            raise LedgerError(
                f"ledger {self.path}: expected version {VERSION}, got {version:g}; it was written by a newer "
                "AnonymousNet: upgrade this one"
            )
        if self.path.stat().st_size <= CHECKED_BYTES:
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(" ".join(found.split()))
        mark = self._db.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()
        if mark is None or mark[0] != derive(self._key, "ledger key"):
            raise LedgerError(
                f"ledger {self.path}: it was made with another key, under which its subjects cannot be found; set "
                "release.key_file to that key, or give another path"
            )


def _open(path: Path) -> sqlite3.Connection:
    if path.stat().st_size == 0:  # SQLite would take it for a new database, and everybody's spending for 0
        raise sqlite3.DatabaseError("the file is empty")
    database = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    database.execute("PRAGMA synchronous = FULL")
    return database


def _create(path: Path, mark: bytes) -> None:
    """Make the whole ledger under another name first: no process ever sees half of one, and one of many wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            seal_file(file, path)
        finally:
            os.close(file)  # before SQLite opens it: closing it later would drop SQLite's locks
        database = sqlite3.connect(draft, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
        )
        database.execute("INSERT INTO meta VALUES ('key', ?)", (mark,))
        database.close()
        claim_name(draft, path)  # where another process was first, its ledger is the ledger
    finally:
        for suffix in ("", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _require_same(earlier: Mapping[str, float], item: Spend) -> None:
    same = earlier.keys() == item.epsilons.keys()
    if not same or any(abs(earlier[name] - item.epsilons[name]) > _SAME for name in earlier):
        raise PrivacyError(
            f"release '{item.release}': a photo was released before with epsilon {math.fsum(earlier.values()):.4g} and "
            f"now with {math.fsum(item.epsilons.values()):.4g} or other groups; a second answer from the same "
            "randomness has no guarantee: set release.name to a new name"
        )
