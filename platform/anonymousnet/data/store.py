"""Files that are either whole or absent, and folders that nobody else can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from anonymousnet.errors import StorageError


def write_atomic(path: Path, data: bytes, replace: bool = True) -> bool:
    """Write `data` to `path` so that a reader, or a crash, finds the old file or the new one, never a part.

    True when it is written; False when a file is there already and `replace` is False: of many writers one wins.

    Written beside `path` (its folder is made if need be), fsynced, renamed over it; the mode follows the umask.
    Raises StorageError, having removed the unfinished file, when the folder refuses or the disk is full.
    """
    path = Path(path)
    # Hidden and of fixed length: find_photos skips it, and a name of 255 characters still has room beside it.
    unfinished = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # os.open and not tempfile: mkstemp would make every released photo mode 0600.
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if replace:
                os.replace(unfinished, path)
            else:
                try:
                    os.link(unfinished, path)
                except FileExistsError:
                    return False
                finally:
                    unfinished.unlink()
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


def private_folder(path: Path) -> Path:
    """Make `path` (and its parents) with mode 0700, tightening it if it exists; return it with `~` expanded.

    Raises StorageError when it cannot be made, is not a folder, or belongs to someone else.
    """
    path = Path(path).expanduser()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise StorageError(
            f"cannot make private folder {path}: {error.strerror or error}; choose a folder that you own"
        ) from error
    return path


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut. Some network disks cannot; the file is whole anyway."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
