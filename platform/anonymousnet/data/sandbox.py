"""A process of its own, its time and memory bounded, for libraries that read strangers' files.

One is kept for each process of ours, and started anew when it dies. It is no fork, which threads, torch and Ray would
not survive, and imports what its tasks name alone. It gets no environment, so no keys, and what it answers is JSON and
plain bytes: nothing of it is run here.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from anonymousnet import errors
from anonymousnet.data.child import READY, file_of, receive, send
from anonymousnet.errors import AnonymousNetError, MachineError

IDLE_S = 10.0
"""What uses no CPU for twice so long waits for itself, and would for ever. A busy machine is no photo's fault: what
uses some CPU may take as long as it takes."""
KILLS = 3
"""How often a task may be killed from outside (the kernel is out of memory) before its file is to blame."""
START_S = 60.0
_PASSED = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")
"""What the process may know of our environment: where libraries lie."""
_FRUGAL = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system",
}  # fmt: skip
"""Each thread would reserve memory of its own, and so would allocators."""
_START = "import sys; sys.path[:] = {path!r}; from anonymousnet.data.child import main; main(int(sys.argv[1]))"
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """A task that went beyond its bounds, or crashed. `why`: time, memory or crash."""

    def __init__(self, why: str, found: str, killed: bool = False) -> None:
        """`killed`: from outside, which need not be the file's fault."""
        super().__init__(found)
        self.why, self.killed = why, killed


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one task may use."""

    seconds: int
    """Of CPU, all threads together."""
    memory: int
    """Bytes of address space, the interpreter and its libraries included."""


def ask(task: str, source: BinaryIO | bytes, bounds: Bounds, **arguments: Any) -> tuple[dict[str, Any], BinaryIO]:
    """Run `task`, "module:function", on a file in the other process: what it answers, and the bytes it made.

    The function takes the open file and the arguments, and returns a dict for JSON and buffers. Raises Stopped, what
    the function raises of `errors`, MachineError when no process can be started. One task at a time.
    """
    kills = 0
    with _lock:
        while True:
            kept = _take()
            fresh = kept.tasks == 0
            try:
                return kept.run(task, source, bounds, arguments)
            except Stopped as stopped:
                kills += stopped.killed
                # What earlier files left in memory is not this one's fault; its seconds are its own.
                final = kills == KILLS if stopped.killed else fresh or stopped.why == "time"
                if final:
                    raise


class _Process:
    """The other process, seen from here."""

    def __init__(self) -> None:
        self.tasks = 0
        self.status: int | None = None
        """Exit status; negative: the signal that ended it. None while it runs."""
        here, there = socket.socketpair()
        root = str(Path(errors.__file__).parents[1])
        start = _START.format(path=[root, *(os.path.abspath(entry) for entry in sys.path)])
        known = {name: os.environ[name] for name in _PASSED if name in os.environ}
        try:
            with there:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", start, str(there.fileno())], pass_fds=[there.fileno()],
                    env={**known, **_FRUGAL}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
        except OSError as error:
            here.close()
            raise MachineError(_no_start(str(error))) from error
        self._socket = here
        try:
            here.settimeout(START_S)
            if receive(here)[0] != READY:
                raise EOFError
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            raise MachineError(_no_start(f"it ended with status {self.status}")) from error

    def run(
        self, task: str, source: BinaryIO | bytes, bounds: Bounds, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], BinaryIO]:
        """One task; whatever goes wrong on the way, the process is stopped then."""
        self.tasks += 1
        asked = {"task": task, "seconds": bounds.seconds, "memory": bounds.memory, "arguments": arguments}
        file = _as_file(source)
        try:
            send(self._socket, asked, file.fileno())
            self._await()
            answer, handle = receive(self._socket)
            if "stopped" in answer or ("error" not in answer and handle is None):
                raise Stopped(str(answer.get("stopped", "crash")), str(answer.get("found", "no answer")))
        except TimeoutError:
            self.stop(at_once=True)
            raise Stopped("time", f"a decoder that waits for itself, for {2 * IDLE_S:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            raise self._ended() from error
        except BaseException:  # an interrupt among them: what is still being worked on would be the next one's answer
            self.stop(at_once=True)
            raise
        finally:
            file.close()
        if "error" in answer:
            raise _error_of(answer)
        assert handle is not None
        return answer["answer"], os.fdopen(handle, "rb")

    def _await(self) -> None:
        """Wait for an answer. Raises TimeoutError where the process does nothing."""
        seen, idle = -1.0, 0
        self._socket.settimeout(IDLE_S)
        while idle < 2:
            with contextlib.suppress(TimeoutError):
                self._socket.recv(1, socket.MSG_PEEK)
                return self._socket.settimeout(None)
            used, busy = self._effort()
            idle, seen = 0 if busy or used != seen else idle + 1, used
        raise TimeoutError

    def _effort(self) -> tuple[float, bool]:
        """CPU seconds that the process has used, and whether it would like more."""
        import psutil

        try:
            process = psutil.Process(self._process.pid)
            return sum(process.cpu_times()[:2]), process.status() == psutil.STATUS_RUNNING
        except psutil.Error:  # it is gone: its end of the socket says so next
            return 0.0, True

    def stop(self, at_once: bool = False) -> None:
        """End the process: it leaves by itself once it is idle."""
        self._socket.close()
        try:
            self.status = self._process.wait(0 if at_once else 2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.status = self._process.wait()

    def _ended(self) -> Stopped:
        """Why it ended by itself."""
        number = -(self.status or 0)
        if number == signal.SIGXCPU:
            return Stopped("time", "more")
        if number in _FROM_OUTSIDE:
            return Stopped("memory", f"ended {KILLS} times by the system", killed=True)
        names = {one.value: one.name for one in signal.Signals}
        return Stopped("crash", names.get(number, f"status {self.status}"))


def _take() -> _Process:
    """The process that is kept, started if there is none."""
    global _kept, _known
    if not _known:
        _known = True
        os.register_at_fork(after_in_child=_forget)
        atexit.register(_leave)
    if _kept is None or _kept.status is not None:
        _kept = _Process()
    return _kept


def _forget() -> None:
    """In a fork: its parent goes on talking to that process."""
    global _kept, _lock
    _kept, _lock = None, threading.Lock()


def _leave() -> None:
    if _kept is not None and _kept.status is None:
        _kept.stop()


_kept: _Process | None = None
_known = False
_lock = threading.Lock()


def _no_start(found: str) -> str:
    return (
        f"cannot start the process that reads files ({found}); check this machine's memory and its limit of processes"
    )


def _error_of(answer: dict[str, Any]) -> AnonymousNetError:
    """One of `errors`, by its name."""
    kind = getattr(errors, str(answer["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, AnonymousNetError)):
        return AnonymousNetError(str(answer.get("message")))
    return kind(str(answer.get("message")))


def _as_file(source: BinaryIO | bytes) -> BinaryIO:
    """An open file of its own from its beginning. Raises MachineError where this machine has no memory for one."""
    try:
        if isinstance(source, bytes):
            return file_of([source])
        file = os.fdopen(os.dup(source.fileno()), "rb")
        file.seek(0)
        return file
    except OSError as error:
        raise MachineError(f"cannot hand a file to the process that reads it ({error}); check the memory") from error
