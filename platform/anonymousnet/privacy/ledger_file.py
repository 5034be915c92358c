"""The ledger's file: its tables, and how it comes into being among many processes."""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path
from urllib.parse import quote

from anonymousnet.data.store import claim_name, seal_file

VERSION = 2
"""Version of the tables; any other is refused. Version 1 had an account for each face's place in the photo, so that one
person had as many as they had places; what those add up to cannot be told any more."""
BUSY_SECONDS = 30.0
"""How long to wait for other writers before giving up."""
APPLICATION = 0x616E6F6E  # "anon", in the file's header
SCHEMA = """
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


def open_ledger(path: Path) -> sqlite3.Connection:
    """A connection that waits for other writers. Raises sqlite3.DatabaseError where the file is empty."""
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


def create_ledger(path: Path, mark: bytes) -> None:
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
            f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
        )
        database.execute("INSERT INTO meta VALUES ('key', ?)", (mark,))
        database.close()
        claim_name(draft, path)  # where another process was first, its ledger is the ledger
    finally:
        for suffix in ("", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
