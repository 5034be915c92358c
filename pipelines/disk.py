"""A folder on a disk as a place of objects: list, read, put whole or not at all, whatever the disk can do.

What is being written lies in DRAFTS, at the folder's top, until it has its name: whoever lists records, jobs or photos
never meets half of one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anonymousnet.data.images import find_photos
from anonymousnet.data.store import check_regular, make_folders, open_regular, write_atomic
from anonymousnet.errors import StorageError

DRAFTS = ".unfinished"
"""Folder of a place for files that are being written; its end is a job's business."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is listed."""

    name: str
    size: int
    """Bytes."""
    version: str
    """ETag, or the file's size and time of change: other bytes have another."""
    fault: str = ""
    """Why there is nothing to be read under this name: it is a pipe, a device, a link that leads nowhere."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object as it was read."""

    data: bytes
    version: str
    encryption: Mapping[str, str]
    """How the server encrypts it, in the words of a put request."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine's disk, or on one that all machines share; or one file of it."""

    root: Path
    private: bool = False
    """Whether what is written is for its owner alone."""
    only: str = ""
    """If given, all that is listed is the file of this name."""

    @property
    def path(self) -> Path:
        """What is listed: the folder, or its one file."""
        return self.root / self.only

    def photos(self, below: str = "") -> list[tuple[str, int]]:
        """(name relative to `below`, bytes) of every photo in it, sorted by name. Raises StorageError."""
        top = self.root / below
        if not below and not top.is_dir():
            raise StorageError(f"no such folder: {top}; check the path")
        if not top.is_dir():
            return []
        try:
            return sorted((path.relative_to(top).as_posix(), path.stat().st_size) for path in find_photos(top))
        except OSError as error:
            raise _unlisted(top, error) from error

    def files(self, below: str) -> set[str]:
        """Names, relative to the root, of the files directly in `below`. Raises StorageError."""
        top = self.root / below
        try:
            return {f"{below}/{path.name}" for path in top.iterdir()} if top.is_dir() else set()
        except OSError as error:
            raise _unlisted(top, error) from error

    def has(self, name: str) -> bool:
        """Whether there is anything of this name."""
        return os.path.lexists(self.root / name)

    def read(self, name: str) -> bytes:
        """One file. Raises OSError when this one cannot be read."""
        return (self.root / name).read_bytes()

    def begin(self, name: str, size: int) -> bytes:
        """The first `size` bytes of a file, without waiting for any. Raises OSError, StorageError."""
        with open_regular(self.root / name) as stream:
            return stream.read(size)

    def put(self, name: str, data: bytes) -> None:
        """Write one file, whole or not at all. Raises StorageError."""
        self._write(name, data)

    def scan(self, after: str = "", below: str = "") -> Iterator[Entry]:
        """Everything below `below` but folders, hidden files and links too, from behind `after` on, in an order of its
        own. Linked folders are not entered. Raises StorageError.
        """
        top = self.root / below
        if not below and not top.is_dir():
            raise StorageError(f"no such folder: {top}; check the path")
        if self.only:
            if not after and not below:
                yield _entry(self.path, self.root.resolve(), self.only)
            return
        if not top.is_dir():
            return
        try:
            yield from _walk(top, top.resolve(), tuple(PurePosixPath(after).parts), "")
        except OSError as error:
            raise _unlisted(top, error) from error

    def fetch(self, name: str, version: str | None = None) -> Fetched:
        """One file. Raises FileNotFoundError when it is gone or no longer of this version, OSError or StorageError for
        all else.
        """
        if (self.root / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        found = _version((self.root / name).stat())
        if version is not None and found != version:
            raise FileNotFoundError(name)
        with open_regular(self.root / name) as stream:
            return Fetched(stream.read(), found, {})

    def create(
        self, name: str, data: bytes, content_type: str = "", encryption: Mapping[str, str] | None = None
    ) -> bool:
        """Write one file where there is none yet; False if there is one. Raises StorageError."""
        return self._write(name, data, replace=False)

    def swap(self, name: str, data: bytes, version: str | None) -> str | None:
        """Put one file in the place of this version of it (None: of no file); its new version, or None if another was
        there. Raises StorageError.
        """
        path = self.root / name
        try:
            make_folders(path.parent, self.private)
            with open(os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if (_version(path.stat()) if path.exists() else None) != version:
                    return None
                self._write(name, data)
                return _version(path.stat())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}; check the permissions") from error

    def delete(self, name: str) -> None:
        """Delete one file; no error if there is none. Raises StorageError."""
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete {self.root / name}: {error.strerror}; check the permissions") from error

    def sweep(self) -> None:
        """Remove what writers that died have left unfinished: for the one who holds the place."""
        shutil.rmtree(self.root / DRAFTS, ignore_errors=True)

    def _write(self, name: str, data: bytes, replace: bool = True) -> bool:
        return write_atomic(self.root / name, data, replace, self.private, self.root / DRAFTS)


def _unlisted(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot list {folder}: {error.strerror}; give a folder that you may read")


def _walk(folder: Path, inside: Path, after: tuple[str, ...], name: str) -> Iterator[Entry]:
    """Entries below a folder, each folder's by name; `name` is the folder's own, `after` what has been seen of it."""
    with os.scandir(folder) as listed:
        here = sorted(listed, key=lambda entry: entry.name)
    for entry in here:
        if after and entry.name < after[0]:
            continue
        seen = after[1:] if after and entry.name == after[0] else ()
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), inside, seen, f"{name}{entry.name}/")
        elif not (after and entry.name == after[0]):
            yield _entry(Path(entry.path), inside, name + entry.name)


def _entry(path: Path, inside: Path, name: str) -> Entry:
    """A file, or a name under which none can be read. Opens nothing: to open a pipe is to wait for ever."""
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(inside):
            return Entry(name, 0, "", "a link that leads out of the folder; put the photo itself there")
        status = path.stat()
        check_regular(path, status)
    except StorageError as error:
        return Entry(name, 0, "", str(error))
    except (OSError, RuntimeError) as error:  # it leads nowhere, or in a circle; what it is may not be known
        return Entry(name, 0, "", f"cannot look at it: {getattr(error, 'strerror', None) or 'links run in a circle'}")
    return Entry(name, status.st_size, _version(status))


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
