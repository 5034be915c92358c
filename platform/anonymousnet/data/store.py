"""Files that are either whole or absent, and folders that nobody else can read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import PrivacyError, StorageError

_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
"""How disks without hard links (exFAT, FAT, gcsfuse, some SMB) refuse one."""


_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes; links are followed. Never waits, as opening a pipe or a device may for ever.

    Raises StorageError when `path` is something else than a file, OSError when it cannot be opened.
    """
    check_regular(path, path.stat())  # before it is opened: some devices act on that alone
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(path, os.fstat(handle))  # what was opened, should the name have changed hands
    except StorageError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def check_regular(path: Path, status: os.stat_result) -> None:
    """Raise StorageError unless `status`, of `path`, is a file's."""
    if not stat.S_ISREG(status.st_mode):
        found = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise StorageError(f"cannot read {path}: expected a file, found {found}; give the path of a photo")


def write_atomic(
    path: Path, data: bytes, replace: bool = True, private: bool = False, drafts: Path | None = None
) -> bool:
    """Write `data` to `path` so that a reader, or a crash, finds the old file or the new one, never a part.

    True when it is written; False when a file is there already and `replace` is False: of many writers one wins.

    Written beside `path`, or in the folder `drafts` of the same disk (folders are made if need be), fsynced, renamed
    over it; the mode follows the umask, or is 0600 (folders 0700) where it is `private`. Raises StorageError, having
    removed the unfinished file, when the folder refuses or the disk is full; PrivacyError when the disk keeps no modes.
    """
    path = Path(path)
    # Hidden and of fixed length: find_photos skips it, and a name of 255 characters still has room beside it.
    unfinished = (drafts or path.parent) / f".{secrets.token_hex(8)}.tmp"
    try:
        make_folders(path.parent, private)
        make_folders(unfinished.parent, private)
        # os.open and not tempfile: mkstemp would make every released photo mode 0600.
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            with os.fdopen(handle, "wb") as stream:
                if private:
                    seal_file(handle, path)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                os.replace(unfinished, path)
            elif not claim_name(unfinished, path):
                return False
        except BaseException:  # an interrupted write leaves nothing behind either
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        _sync_folder(path.parent)
        return True
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; check that {path.parent} exists, is writable "
            f"and has {len(data)} bytes free, then run again"
        ) from error


def claim_name(draft: Path, path: Path) -> bool:
    """Give the finished file `draft` the name `path` unless that is taken; whether it was free. `draft` is gone then.

    Of many processes one wins, and none ever reads a part of a file: by a hard link or, where the disk has none, by a
    look and a rename under a lock that the kernel frees when its holder dies. Raises OSError.
    """
    try:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _claim_locked(draft, path)
        return True
    finally:
        draft.unlink(missing_ok=True)


def _claim_locked(draft: Path, path: Path) -> bool:
    # Of fixed length, one for each path: writers of other ones do not wait. Beside the draft, for it may stay behind.
    lock = draft.parent / f".{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.lock"
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_named(handle, lock):
                continue  # its last holder has removed it: another one may hold a lock of that name by now
            try:
                if path.exists():
                    return False
                os.rename(draft, path)
                return True
            finally:
                lock.unlink()
        finally:
            os.close(handle)


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def private_folder(path: str | Path) -> Path:
    """Make `path` (and its parents) with mode 0700, checked once it is there; return it, absolute.

    Raises StorageError when it cannot be made or is not a folder; PrivacyError when it is there and open to others.
    """
    path = resolve_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # whatever umask and the folder above made of it
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise StorageError(
            f"cannot make private folder {path}: {error.strerror or error}; choose a folder that you own"
        ) from error
    if mode & 0o077:
        raise PrivacyError(
            f"private folder {path}: expected mode 0700, got {mode:04o}: others can read what undoes a release; run "
            f"`chmod 700 {path}`, or choose a folder that is not there yet (on a disk that keeps modes)"
        )
    return path


def seal_file(handle: int, path: Path) -> None:
    """Take everybody else's rights from an open file of ours. Raises PrivacyError where the disk keeps no modes."""
    with contextlib.suppress(OSError):  # disks without modes refuse; what counts is what they say afterwards
        os.fchmod(handle, 0o600)
    check_private(os.fstat(handle).st_mode, path)


def check_private(mode: int, path: Path) -> None:
    """Raise PrivacyError for a private file that others can read."""
    if mode & 0o077:
        raise PrivacyError(
            f"private file {path}: expected mode 0600, got {mode & 0o777:04o}: others can read it; run `chmod 600 "
            f"{path}`, or choose a place on a disk that keeps modes"
        )


def seal_path(path: Path) -> None:
    """The same for a file that is there: a volume that is mounted anew may have given it to a group."""
    if path.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):
            path.chmod(0o600)
    check_private(path.stat().st_mode, path)


def make_folders(folder: Path, private: bool = False) -> None:
    """Make a folder, and those above it that are missing; `private`: with mode 0700. Raises OSError."""
    if not private:
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        make_folders(folder.parent, private)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            folder.chmod(0o700)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut. Some network disks cannot; the file is whole anyway."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
