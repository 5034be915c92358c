"""What bytes are, by how they begin and never by what they are called: a picture, plain text, or neither."""

from __future__ import annotations

import re

_PICTURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a",                  # JPEG, PNG, GIF
    b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",                                       # TIFF, and what cameras make of it
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",                                       # JPEG 2000
)  # fmt: skip
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}
_NETPBM = re.compile(rb"P[1-6]\s(?:\s*#[^\n]*\n)*\s*\d+\s+(?:#[^\n]*\n\s*)*\d+\s")
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Bytes that follow a BMP's own 14, by version: two letters alone begin many a text."""

_CONTROL = re.compile(r"[^\t\n\f\r\x20-\x7e\xa0-\U0010ffff]")
_RUN = re.compile(r"[A-Za-z0-9+/_-]{256}")
"""No word is as long: base64 or hexadecimal digits of something."""
_WRAPPED = re.compile(r"(?:[A-Za-z0-9+/_-]{60,}={0,2}(?:\\[rn]|\s){1,4}){2}")
"""The same in lines, as mail and PEM files have it."""
_SHORT = re.compile(r"(?<![A-Za-z0-9])(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|ffd8ff|89504e47)[\w+/-]{24}", re.I)
"""A small picture, by how base64 or hexadecimal digits of one begin."""
_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2}){6}|(?:\\u00[0-9a-f]{2}){6}|(?:\\[0-7]{3}){6}", re.I)
_NUMBERS = re.compile(r"(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?[\s,;\[\]+-]+){200}", re.I)
"""Nearly as many numbers in a row as a picture of 16 x 16 pixels has."""
_DRAWN = re.compile(r"data:\s*(?:image|video|application/octet)|<svg|%!PS|/\* XPM|#define\s+\w+_width\s+\d", re.I)
PIXELS = 256
"""With more numbers in a list, they may be a picture's: 16 x 16."""


def is_picture(data: bytes) -> bool:
    """Whether bytes begin as a picture of a format that `load_photo` reads, or as one of its near relations."""
    if data.startswith(_PICTURES) or _NETPBM.match(data[:1024]):
        return True
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return True
    if data[4:8] == b"ftyp":
        return any(data[at : at + 4] in _BRANDS for at in range(8, min(len(data), 64), 4))
    return data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BITMAP_HEADERS


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8 text that hides no picture."""
    try:
        return is_plain(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return False


def is_plain(text: str) -> bool:
    """Whether a text hides no picture: drawn (SVG), as numbers, or as bytes in base64 or another way to write them."""
    if _CONTROL.search(text):
        return False
    return not any(form.search(text) for form in (_DRAWN, _RUN, _WRAPPED, _SHORT, _ESCAPED, _NUMBERS))
