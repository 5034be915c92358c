"""The members of a tar, plain or compressed: how much comes out of it is bounded while it is read.

Imported by the process that reads strangers' files (`sandbox`): few modules.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from anonymousnet.data.archives import LARGEST
from anonymousnet.errors import AnonymousNetError, DataError

MOST_MEMBERS = 200_000
_COMPRESSED = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile}
"""How a compressed tar begins -> what unpacks it, read by read."""


@dataclass(frozen=True, slots=True)
class Member:
    """What stands in a tar under one name."""

    name: str
    data: bytes = b""
    unread: str = ""
    """Why its data are not read: it is a link, a device or the like; empty for files."""


def members(data: bytes, largest: int = LARGEST) -> Iterator[Member]:
    """All but folders, in order. Raises DataError: it is damaged, cut, too large, or two have one name."""
    try:
        yield from _read(_plain(data, largest))
    except (AnonymousNetError, MemoryError):
        raise
    except Exception as error:  # fed a damaged file, the reader raises nearly anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"expected a tar file, found a damaged one ({said}); copy it again") from error


def answer(stream: BinaryIO, largest: int) -> tuple[dict[str, Any], list[bytes]]:
    """Read a whole tar, as a task of `sandbox`: how many members it has. Raises DataError."""
    return {"members": sum(1 for _ in members(stream.read(), largest))}, []


def _read(plain: bytes) -> Iterator[Member]:
    seen: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
        for header in _headers(archive):
            if header.name in seen:
                raise DataError("expected members of different names, found one name twice; pack it anew")
            seen.add(header.name)
            if len(seen) > MOST_MEMBERS:
                raise DataError(f"expected at most {MOST_MEMBERS} members, found more; split it")
            if header.issparse() or not header.isfile():
                yield Member(header.name, unread=_kind(header))
            elif (stream := archive.extractfile(header)) is not None:
                yield Member(header.name, stream.read())
        end = plain[archive.offset :]
    # The reader takes any header that it cannot read for the end: what follows would be lost without a word.
    if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
        raise DataError(f"expected the end of the tar at byte {archive.offset}, found more, or less; copy it again")


def _headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Those of all members but folders."""
    at = 0
    while (header := archive.next()) is not None:
        if archive.offset <= at:  # a size below zero: the same members would come for ever
            raise DataError("expected members one behind the other, found one that leads back; pack it anew")
        at = archive.offset
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        if not header.isdir():
            yield header


def _plain(data: bytes, largest: int) -> bytes:
    """A tar's own bytes, whatever it is compressed with. Raises DataError for more than `largest` bytes."""
    unpack: Any = next((one for start, one in _COMPRESSED.items() if data.startswith(start)), None)
    if unpack is None:
        return data
    with unpack(io.BytesIO(data)) if unpack is not gzip.GzipFile else unpack(fileobj=io.BytesIO(data)) as stream:
        plain: bytes = stream.read(largest + 1)
    if len(plain) > largest:
        raise DataError(f"expected at most {largest >> 20} MiB once unpacked, found more; split it")
    return plain


def _kind(header: tarfile.TarInfo) -> str:
    """What a member is that is no plain file."""
    if header.issparse():
        return "a sparse file, of which some is not there; pack it anew"
    if header.islnk() or header.issym():
        return "a link: no other file is opened; pack the file itself"
    return "a device, a pipe or the like: expected a file"
