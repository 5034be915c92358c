"""Where an evaluation's jobs run: in processes of their own where that pays, else in this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

import torch

WORTH_PROCESSES = 200
"""Releases of fewer photos are evaluated in this process."""

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
Job = tuple[Callable[..., Any], tuple[Any, ...]]
Run = Callable[[list[Job], Progress], list[Any]]


def here(jobs: list[Job], progress: Progress) -> list[Any]:
    """Run jobs in this process; results in order."""
    return [function(*values) for function, values in progress(jobs, len(jobs))]


@contextmanager
def workers(device: str, photos: int) -> Iterator[Run]:
    """A function that runs jobs and returns their results in order; longest jobs should come first.

    Processes and not threads: much of the work holds Python's lock. A GPU is not shared out.
    """
    count = os.cpu_count() or 1
    gpu = device != "cpu" and torch.cuda.is_available()
    if count == 1 or gpu or photos < WORTH_PROCESSES:
        yield here
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), end_with_parent) as pool:

        def run(jobs: list[Job], progress: Progress) -> list[Any]:
            futures: list[Future[Any]] = [pool.submit(function, *values) for function, values in jobs]
            for done in progress(as_completed(futures), len(futures)):
                done.result()
            return [future.result() for future in futures]

        yield run


def end_with_parent() -> None:
    """What a process of a pool begins with: one thread, and no worker without its parent: a killed parent closes no
    queue of its workers."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
