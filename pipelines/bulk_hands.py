"""What a worker has in hand, written down before it is worked on: whoever comes after its death knows its cause.

A death counts only if the driver that watched over the worker lives: a driver that was killed, together with what it
did itself, says nothing of a photo.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self

from anonymousnet.errors import MachineError, WorkerDied
from anonymousnet.pipelines.bulk_plan import Job

DEATHS = 3
"""A photo over which so many workers died is set aside."""
MOST = 4
"""So many of one chunk are no longer the photos' fault."""
WHOLE = "\0"
"""Stands for all photos of a chunk, in hand together."""
TRIES = DEATHS * (MOST + 1)
"""How often a worker that dies over a chunk is replaced before the job gives up."""


class Hands:
    """The marks of one chunk. Raises MachineError where too many of its photos kill."""

    def __init__(self, job: Job, driver: str, number: int) -> None:
        self.place, self.name, self.driver = job.audit, f"{job.run}/hands/{number:08}.json", driver
        found = _marks(job, number)
        self.deaths: dict[str, int] = found.get("deaths", {})
        if found.get("driver") == driver and found.get("at") is not None:
            self.deaths[found["at"]] = self.deaths.get(found["at"], 0) + 1
        self.careful = bool(self.deaths)
        if sum(self._count(label) >= DEATHS for label in self.deaths) > MOST:
            raise MachineError(
                f"workers died over more than {MOST} photos, each alone: rather this machine has too little memory; "
                "use fewer --workers, or a larger machine, and run the same command again"
            )

    def __enter__(self) -> Self:
        if not self.careful:
            self.take(WHOLE)
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            self.take(None)  # it ends, and does not die

    def take(self, label: str | None) -> None:
        """Write down what is worked on from now on; None: nothing."""
        marks = {"driver": self.driver, "at": label, "deaths": self.deaths}
        self.place.put(self.name, json.dumps(marks).encode())

    def check(self, label: str) -> None:
        """Raise WorkerDied for what is set aside."""
        if label in self.deaths and self._count(label) >= DEATHS:
            raise WorkerDied(f"{DEATHS} processes in a row died over it, so it was set aside; look at the file")

    def _count(self, label: str) -> int:
        """Deaths over it; the first one was over the whole chunk."""
        return 0 if label == WHOLE else self.deaths[label] + self.deaths.get(WHOLE, 0)


def died_in_hand(job: Job, driver: str, number: int) -> bool:
    """Whether somebody died over the chunk, a photo or the machine being the cause."""
    found = _marks(job, number)
    return bool(found.get("deaths")) or (found.get("at") is not None and found.get("driver") != driver)


def clear(job: Job) -> None:
    """Remove the marks of a job that is done."""
    delete: Callable[[str], None] = job.audit.delete
    for name in job.audit.files(f"{job.run}/hands"):
        delete(name)


def _marks(job: Job, number: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(job.audit.fetch(f"{job.run}/hands/{number:08}.json").data)
        return found
    except (FileNotFoundError, ValueError):
        return {}
