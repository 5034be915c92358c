"""Scans of a JPEG, counted before any is decoded: each costs a pass over all pixels, and a byte or two of the file."""

from __future__ import annotations

import re
from typing import BinaryIO

from anonymousnet.errors import TooManyScans

MOST_SCANS = 64
"""Encoders write 1, or about 10 in a progressive file; a file of 1 MB could hold 100,000."""
MOST_SEGMENTS = 10_000
"""Segments looked at: a colour profile takes 255 at most. Pillow reads them one by one, in Python."""
_WINDOW = 1 << 16
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
"""What begins a segment: neither a stuffed byte, nor a restart within a scan, nor filling."""
_END, _SCAN = 0xD9, 0xDA


def check_scans(stream: BinaryIO, name: str) -> None:
    """Walk over a JPEG's segments to its end; the stream is left anywhere. Raises TooManyScans.

    Goes where libjpeg goes: over segments by their length, through a scan to its next marker, to the end of the first
    picture. What lies behind (a video, a second picture) is not read.
    """
    scans, at, start, window = 0, 2, 0, b""
    for _ in range(MOST_SEGMENTS):
        while (found := _MARKER.search(window, max(0, at - start))) is None:
            at = start = max(at, start + len(window) - 1)  # the last byte may be a marker's first
            stream.seek(start)
            window = stream.read(_WINDOW)
            if len(window) < 2:
                return
        at, code = start + found.end(), window[found.end() - 1]
        if code == _END:
            return
        if code == _SCAN:
            scans += 1
            if scans > MOST_SCANS:
                raise TooManyScans(
                    f"{name}: expected at most {MOST_SCANS} scans in a JPEG, found more; save it anew, not progressive"
                )
        stream.seek(at)
        at += max(2, int.from_bytes(stream.read(2), "big"))
    raise TooManyScans(
        f"{name}: expected at most {MOST_SEGMENTS} segments in a JPEG, found more; save it anew, without metadata"
    )
