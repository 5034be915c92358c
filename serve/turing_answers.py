"""Where raters' answers are kept: one SQLite file, outside any release, that names no rater.

Every answer is its own transaction on a connection of its own, so threads and processes of one machine may share the
file. SQLite's locks do not hold on network disks: keep it on a local one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import private_folder, seal_file, seal_path
from anonymousnet.errors import ConfigError, StorageError
from anonymousnet.serve.turing_trials import Answer, Choice, Task, Trial

_COLUMNS = ("test", "task", "trial", "condition", "left", "right", "truth", "answer", "seconds", "at")
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS answers (
        test TEXT NOT NULL, task TEXT NOT NULL, trial INTEGER NOT NULL, condition TEXT NOT NULL, "left" TEXT NOT NULL,
        "right" TEXT NOT NULL, truth TEXT NOT NULL, answer TEXT NOT NULL, seconds REAL,
        at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), PRIMARY KEY (test, trial)) WITHOUT ROWID
"""


class Answers:
    """The file, made with mode 0600 at the first answer. Methods raise StorageError when it cannot be used."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Raises ConfigError when `path` lies in the pictures' folder, where it would stand beside a release."""
        self.path = resolve_path(path)
        if self.path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"serve.turing.answers: {path} lies in {folder}: answers must not stand beside released photos; "
                "choose a place outside"
            )

    def add(self, test: str, task: Task, number: int, trial: Trial, answer: Choice, seconds: float | None) -> bool:
        """Record one answer; False, and nothing changes, where this question has one."""
        row = (test, task, number, trial.condition, trial.left.name, trial.right.name, trial.truth, answer, seconds)
        names = ", ".join(f'"{name}"' for name in _COLUMNS[:-1])
        marks = ", ".join("?" * len(row))
        with self._open() as db:
            done = db.execute(f"INSERT INTO answers ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", row)
            return done.rowcount == 1

    def of(self, test: str) -> list[Answer]:
        """One rater's answers."""
        return self._read("WHERE test = ?", test)

    def all(self) -> list[Answer]:
        """Everybody's."""
        return self._read("")

    def csv(self) -> str:
        """A row per answer: what was shown, what was true, what was said. For the operator."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        if self.path.exists():
            with self._open() as db:
                names = ", ".join(f'"{name}"' for name in _COLUMNS)
                writer.writerows(db.execute(f"SELECT {names} FROM answers ORDER BY at, test, trial"))
        return out.getvalue()

    def _read(self, where: str, *values: str) -> list[Answer]:
        if not self.path.exists():
            return []
        with self._open() as db:
            rows = db.execute(f"SELECT test, task, condition, truth, answer FROM answers {where}", values).fetchall()
        return [Answer(*row) for row in rows]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self.path.exists():
                if not self.path.parent.exists():
                    private_folder(self.path.parent)
                handle = os.open(self.path, os.O_CREAT, 0o600)
                try:
                    seal_file(handle, self.path)
                finally:
                    os.close(handle)
            seal_path(self.path)
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as db:
                db.execute(_SCHEMA)
                with db:
                    yield db
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"the answers' file {self.path} cannot be used ({error}); check path, rights and free space"
            ) from error
