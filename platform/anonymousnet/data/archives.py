"""Archives as strangers pack them: another process, its time and memory bounded, reads each before this one does.

What comes out of a file of 1.6 MB may be 1.5 GiB, and of one of 700 bytes more than memory holds.
"""

from __future__ import annotations

from typing import Literal

from anonymousnet.data import sandbox
from anonymousnet.errors import DataError

Kind = Literal["webdataset", "parquet"]
LARGEST = 512 << 20
"""Bytes of an archive, as it is and once it is read: it travels through memory in one piece."""
BOUNDS = sandbox.Bounds(seconds=60, memory=2 << 30)
_TASKS: dict[Kind, str] = {
    "webdataset": "anonymousnet.data.tarball:answer",
    "parquet": "anonymousnet.data.parquet:answer",
}


def check_archive(kind: Kind, data: bytes, largest: int = LARGEST) -> None:
    """Raise DataError unless an archive reads, and holds at most `largest` bytes; MachineError: no process starts."""
    try:
        sandbox.ask(_TASKS[kind], data, BOUNDS, largest=largest)[1].close()
    except sandbox.Stopped as stopped:
        raise DataError(
            f"expected a {kind} file that is read within {BOUNDS.seconds} s of CPU time and {BOUNDS.memory >> 20} MiB, "
            f"found {stopped}; split it, or pack it anew"
        ) from stopped
