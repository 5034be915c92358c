"""Who is at a job, and how far it is: one small object per job in the audit place, renewed by the driver.

A driver holds a job by renewing its state with conditional puts. A state that nobody renews for TTL seconds is a dead
driver's, and the next one takes the job over. No clock but the watcher's own is asked. A driver that was only slow
loses its hold and ends; what both have done meanwhile is the same, since every put is conditional.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from anonymousnet.errors import AnonymousNetError, ClusterError, ConfigError, StorageError
from anonymousnet.pipelines.storage import Storage

TTL = 15.0
"""Seconds without a sign of life after which a driver counts as dead."""
BEAT = 3.0
"""Seconds between two signs of life."""


_JOB = re.compile(r"jobs/[0-9a-f]{32}-[0-9a-f]{8}\.json")


class Hold:
    """A driver's hold on a job."""

    def __init__(self, audit: Storage, run: str) -> None:
        self.audit, self.name, self.run = audit, f"states/{run}.json", run
        self.progress: dict[str, Any] = {}
        self.lost = False
        self.owner = f"{_here()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._version: str | None = None

    def take(self) -> None:
        """Wait for a dead driver's hold to lapse. Raises ClusterError when a living one has it."""
        seen, since = None, time.monotonic()
        while True:
            found = _state(self.audit, self.name)
            version = found[1] if found else None
            lapsed = version == seen and time.monotonic() - since > TTL
            if found is None or found[0]["state"] != "running" or lapsed or _is_dead(found[0]["owner"]):
                self._version = self.audit.swap(self.name, self._body("running"), version)
                if self._version:
                    return
            elif seen is not None and version != seen:
                raise ClusterError(
                    f"job {self.run} is being done by another driver ({found[0]['owner']}); wait for it to end, or "
                    "stop it and start again"
                )
            elif seen is None:
                seen, since = version, time.monotonic()
            time.sleep(min(0.5, TTL / 10))

    def renew(self, state: str = "running") -> None:
        """Say that this driver lives, and how far it is."""
        new = self.audit.swap(self.name, self._body(state), self._version)
        if new is None:
            # The answer to our own last word may have been lost on its way.
            found = _state(self.audit, self.name)
            if found is None or found[0]["owner"] != self.owner:
                self.lost = True
                return
            new = self.audit.swap(self.name, self._body(state), found[1])
        self._version = new or self._version

    def check(self) -> None:
        """Raise ClusterError when another driver has taken the job over."""
        if self.lost:
            raise ClusterError(f"job {self.run} was taken over by another driver; leave it to that one")

    def _body(self, state: str) -> bytes:
        beat = {"state": state, "owner": self.owner, "beat": time.time(), **self.progress}
        return json.dumps(beat, sort_keys=True).encode()


@contextmanager
def held(audit: Storage, run: str) -> Iterator[Hold]:
    """Hold a job while the block runs; however the block ends, the state says so. Raises ClusterError."""
    hold, over = Hold(audit, run), threading.Event()
    hold.take()

    def beat() -> None:
        while not over.wait(BEAT) and not hold.lost:
            with suppress(AnonymousNetError, OSError):  # a server that is away for a while is the workers' to report
                hold.renew()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    state = "stopped"
    try:
        yield hold
        state = "finished"
    finally:
        over.set()
        thread.join()
        if not hold.lost:
            with suppress(AnonymousNetError, OSError):
                hold.renew(state)


def list_jobs(audit: Storage) -> Iterator[dict[str, Any]]:
    """Every job of an audit place: its description and its state. Raises StorageError."""
    for name in _jobs(audit):
        yield show_job(audit, name.removeprefix("jobs/").removesuffix(".json"))


def show_job(audit: Storage, run: str) -> dict[str, Any]:
    """One job, by the beginning of its name. Raises ConfigError when there is none, or more than one."""
    names = [name for name in _jobs(audit) if name.startswith(f"jobs/{run}")]
    if len(names) != 1:
        raise ConfigError(f"expected one job called {run}…, found {len(names)}; `anonymousnet jobs list` names them")
    try:
        described = json.loads(audit.fetch(names[0]).data)
        found = _state(audit, names[0].replace("jobs/", "states/", 1))
    except (ValueError, OSError) as error:
        raise StorageError(f"cannot read job {run}: {error}; check the audit place") from error
    state = found[0] if found else {"state": "stopped", "objects": 0, "of": described.get("objects", 0)}
    silent = time.time() - state.get("beat", 0) > 2 * TTL
    if state["state"] == "running" and (silent or _is_dead(state["owner"])):
        state["state"] = "dead"  # killed: the same command takes it up again
    return {**described, **state}


def _jobs(audit: Storage) -> list[str]:
    """Names of the jobs' descriptions, in order; whatever else lies there is nobody's business."""
    return sorted(name for name in audit.files("jobs") if _JOB.fullmatch(name))


def _here() -> str:
    """This machine, and where in it numbers of processes mean the same."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()}/{space.strip('pid:[]')}"


def _is_dead(owner: str) -> bool:
    """Whether the driver was a process of this machine that is gone: then nobody need wait for its silence."""
    here, _, rest = owner.partition(":")
    number = rest.partition(":")[0]
    try:
        if here == _here() and number.isdigit():
            os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return False


def _state(audit: Storage, name: str) -> tuple[dict[str, Any], str] | None:
    """(state, version), or None before the first driver."""
    try:
        found = audit.fetch(name)
    except FileNotFoundError:
        return None
    try:
        state = json.loads(found.data)
        return {"owner": state["owner"], "state": state["state"], **state}, found.version
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{name}: expected a job's state, found something else; delete it and run again") from error
