"""A job done in this process, one chunk after the other: no Ray is imported or started.

A chunk over which this job's process died before is done in a child: if a photo kills it too, this process lives on to
count, and to set the photo aside.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from anonymousnet.data.subjects import Subjects
from anonymousnet.errors import MachineError
from anonymousnet.pipelines.bulk_hands import TRIES, died_in_hand
from anonymousnet.pipelines.bulk_plan import Job, Survey, Work
from anonymousnet.pipelines.bulk_publish import Books, publish
from anonymousnet.pipelines.bulk_work import Got, Protect, done_in, read
from anonymousnet.privacy.jobs import end_with_parent

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer


def run(
    job: Job, surveyed: Survey, subjects: Subjects, driver: str, anonymizer: Anonymizer
) -> Iterator[dict[str, int]]:
    """The tally of each chunk once its record stands, in the source's order. Raises whatever ends the job."""
    books = None if job.config.release.ledger is None else Books(job)
    protect = Protect(job, subjects, driver, anonymizer)
    with closing(books.ledger) if books else nullcontext():
        for segment in surveyed.segments:
            for number, got in read(job, segment, done_in(job, segment)):
                died = died_in_hand(job, driver, number)
                work = _in_child(job, subjects, driver, number, got) if died else protect(number, got)
                yield publish(job, number, work, books.spend if books else None)


def _in_child(job: Job, subjects: Subjects, driver: str, number: int, got: Got) -> list[Work]:
    """The same chunk, by a process that may die of it."""
    for _ in range(TRIES):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
            try:
                return pool.submit(_protect, job, subjects, driver, number, got).result()
            except BrokenProcessPool:
                continue  # what it died over, the next one knows
    raise MachineError(
        f"a process of its own died {TRIES} times at the same photos, before it worked on any; is there memory for two?"
    )


def _protect(job: Job, subjects: Subjects, driver: str, number: int, got: Got) -> list[Work]:
    return Protect(job, subjects, driver)(number, got)
