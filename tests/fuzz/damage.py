"""What may become of a file's bytes, drawn from a seeded generator."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

Random = np.random.Generator
_ODD = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEAD = 512


def damaged(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """The file after one to four changes. `others`: files to take pieces from."""
    for _ in range(int(rng.integers(1, 5))):
        change: Callable[[bytes, list[bytes], Random], bytes] = _CHANGES[int(rng.integers(len(_CHANGES)))]
        data = change(data, others, rng)
    return data


def _at(data: bytes, rng: Random) -> int:
    """A place; every other time in the head, where most is decided."""
    return int(rng.integers(max(1, min(len(data), _HEAD) if rng.random() < 0.5 else len(data))))


def flip(data: bytes, _: list[bytes], rng: Random) -> bytes:
    """Some bits turned over."""
    out = bytearray(data)
    for _i in range(int(rng.integers(1, 20)) if out else 0):
        out[_at(data, rng) % len(out)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(data: bytes, _: list[bytes], rng: Random) -> bytes:
    """The end is missing."""
    return data[: _at(data, rng)]


def drop(data: bytes, _: list[bytes], rng: Random) -> bytes:
    """A piece is missing."""
    at = _at(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 200)) :]


def clear(data: bytes, _: list[bytes], rng: Random) -> bytes:
    """A piece is zeros, or ones."""
    at, size = _at(data, rng), int(rng.integers(1, 600))
    return data[:at] + bytes([int(rng.integers(2)) * 255]) * len(data[at : at + size]) + data[at + size :]


def repeat(data: bytes, _: list[bytes], rng: Random) -> bytes:
    """A piece comes again and again."""
    at, size = _at(data, rng), int(rng.integers(1, 300))
    return data[:at] + data[at : at + size] * int(rng.integers(2, 60)) + data[at:]


def splice(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """It goes on as another file."""
    other = others[int(rng.integers(len(others)))]
    return data[: _at(data, rng)] + other[_at(other, rng) :]


def insert(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """A piece of another file stands in it."""
    other, at, start = others[int(rng.integers(len(others)))], _at(data, rng), 0
    start = _at(other, rng)
    return data[:at] + other[start : start + int(rng.integers(1, 400))] + data[at:]


def field(data: bytes, _: list[bytes], rng: Random) -> bytes:
    """A number is one that programs trip over."""
    width = (">B", ">H", "<H", ">I", "<I", ">Q", "<Q")[int(rng.integers(7))]
    at, size = _at(data, rng), struct.calcsize(width)
    value = _ODD[int(rng.integers(len(_ODD)))] & ((1 << 8 * size) - 1)
    return data[:at] + struct.pack(width, value) + data[at + size :]


def header(data: bytes, others: list[bytes], rng: Random) -> bytes:
    """A field of a tar's header or a PNG's chunk, whose sum is right again afterwards: readers look further."""
    if data[257:262] == b"ustar":
        return _tar_header(data, others, rng)
    if data.startswith(b"\x89PNG"):
        return _png_chunk(data, others, rng)
    return field(data, others, rng)


def _tar_header(data: bytes, others: list[bytes], rng: Random) -> bytes:
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return flip(data, others, rng)
    at = heads[int(rng.integers(len(heads)))]
    head = bytearray(flip(data[at : at + 512], others, rng))
    if rng.random() < 0.5:  # kinds of members that are no files
        head[156] = b"0123456SLKxgXDMVN\0"[int(rng.integers(18))]
    if rng.random() < 0.3:
        head[124:136] = [b"77777777777\0", b"-0000001000\0", b"\xff" * 12, b"\x80" + b"\0" * 7 + b"\1\0\0\0"][
            int(rng.integers(4))
        ]
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % (sum(head) & 0o777777)
    return data[:at] + bytes(head) + data[at + 512 :]


def _png_chunk(data: bytes, others: list[bytes], rng: Random) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            break
        chunks.append((at, size))
        at += 12 + size
    if not chunks:
        return flip(data, others, rng)
    at, size = chunks[int(rng.integers(len(chunks)))]
    body = flip(data[at + 4 : at + 8 + size], others, rng)
    return data[: at + 4] + body + struct.pack(">I", zlib.crc32(body)) + data[at + 12 + size :]


_CHANGES = (flip, flip, cut, drop, clear, repeat, splice, insert, field, field, header, header)
