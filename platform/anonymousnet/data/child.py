"""What runs in the process that `sandbox` keeps: one task after the other, within bounds. Imports what a task names.

A message is a line of JSON; an open file may come with it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from anonymousnet.errors import AnonymousNetError

READY = {"ready": True}
"""The first message, once it has started."""


def main(handle: int) -> None:
    """Answer one task after the other, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, which then leaves
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold photos
    with contextlib.suppress(OSError):  # where memory runs out, the kernel is to end this process and not the job's
        Path("/proc/self/oom_score_adj").write_text("1000")
    with socket.socket(fileno=handle) as there:
        send(there, READY)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                message, file = receive(there)
                assert file is not None
                with os.fdopen(file, "rb") as stream:
                    if not _answer(there, message, stream):
                        return


def _answer(there: socket.socket, message: dict[str, Any], stream: BinaryIO) -> bool:
    """Do one task; whether the next one may come."""
    allow_seconds(message["seconds"])
    _limit(resource.RLIMIT_AS, message["memory"])
    try:
        module, _, name = message["task"].partition(":")
        answer, parts = getattr(importlib.import_module(module), name)(stream, **message["arguments"])
        with file_of(parts) as made:
            send(there, {"answer": answer}, made.fileno())
    except AnonymousNetError as error:
        send(there, {"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        send(there, {"stopped": "memory", "found": f"more than {message['memory'] >> 20} MiB"})
        return False
    except Exception as error:  # a library fed a damaged file
        send(there, {"stopped": "crash", "found": " ".join(f"{type(error).__name__} {error}".split())})
        return False
    return True


def allow_seconds(seconds: int) -> None:
    """From now on so many CPU seconds are left to this process: a task that knows what it needs says so."""
    _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)


def _limit(what: int, most: int) -> None:
    """Lower, or raise again, what this process may use; as far as the system lets it."""
    hard = resource.getrlimit(what)[1]
    allowed = most if hard == resource.RLIM_INFINITY else hard if most == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (allowed, hard))


def file_of(parts: Iterable[Any]) -> BinaryIO:
    """A file of all these bytes, at its beginning."""
    file = _memory_file()
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            view = view[file.write(view) :]
    file.seek(0)
    return file


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("anonymousnet"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def send(to: socket.socket, message: dict[str, Any], *handles: int) -> None:
    data = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(to, [data], handles)
    to.sendall(data[sent:])


def receive(there: socket.socket) -> tuple[dict[str, Any], int | None]:
    """One message and the open file that came with it. Raises EOFError when the other side is gone."""
    data, handle = b"", None
    while not data.endswith(b"\n"):
        part, handles, _, _ = socket.recv_fds(there, 1 << 16, 1)
        for handle in handles:
            os.set_inheritable(handle, False)
        if not part:
            raise EOFError
        data += part
    return json.loads(data), handle
