"""A job done by Ray: list and get (tasks) -> the four stages (actors) -> spend, put, record (tasks)."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy, read_datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anonymousnet.data.subjects import Subjects
from anonymousnet.pipelines.bulk_hands import TRIES
from anonymousnet.pipelines.bulk_plan import Job, Segment, Survey
from anonymousnet.pipelines.bulk_publish import Books, publish
from anonymousnet.pipelines.bulk_work import Protect, done_in, read
from anonymousnet.pipelines.session import persistently, ray_session

Row = dict[str, Any]
"""A chunk between two machines: its number, and the rest of it, pickled."""


class Listing(Datasource):
    """The chunks that are not done yet, with their objects' bytes; a row each.

    What is done is looked up here, once. When a machine is lost Ray reads a segment again and takes the rows it lacks
    by their place: were those left out that have been done since, others would stand there, and some chunk nowhere.
    """

    def __init__(self, job: Job, segments: tuple[Segment, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job, self.parts = job, [(segment, done_in(job, segment)) for segment in segments]

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known beforehand."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a segment."""
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(blocks, self.job, *part), nothing) for part in self.parts]


def blocks(job: Job, segment: Segment, done: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """What `read` yields, a block of one row each."""
    for number, got in read(job, segment, done):
        yield pa.table({"number": [number], "objects": pa.array([pickle.dumps(got)], pa.large_binary())})


class Worker:
    """The actor."""

    def __init__(self, job: Job, subjects: Subjects, driver: str) -> None:
        self.protect = Protect(job, subjects, driver)

    def __call__(self, row: Row) -> Row:
        """A chunk's objects, protected."""
        work = self.protect(int(row["number"]), pickle.loads(row["objects"]))
        return {"number": int(row["number"]), "objects": pickle.dumps(work)}


def put(row: Row, job: Job, books: Any) -> Row:
    """The task at the end: a chunk's tally, once it is recorded."""
    spend = None if books is None else lambda photos: ray.get(books.spend.remote(photos))
    return dict(publish(job, int(row["number"]), pickle.loads(row["objects"]), spend))


def run(
    job: Job, surveyed: Survey, subjects: Subjects, driver: str, address: str | None, workers: int | None
) -> Iterator[dict[str, int]]:
    """The tally of each chunk once its record stands, in any order. `workers`: at most so many processes [one per CPU,
    or per GPU]. Raises ClusterError, and whatever ends the job.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told once, by us
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray's own wrapping forgets ours on its way here
    context.target_max_block_size = 1  # a chunk is a block of its own, and so a task of its own
    with ray_session(address) as again, DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how often an actor restarts has no other name yet
        resources, on_gpu = ray.cluster_resources(), job.config.device == "cuda"
        cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
        # A local Ray is told of more CPUs than there are, and a cluster's must leave one for reading and writing.
        most = gpus if on_gpu else max(1, cpus - 1) if address else os.cpu_count() or 1
        count = max(1, min(workers or most, surveyed.chunks))

        def start() -> Iterator[dict[str, int]]:
            books = None if job.config.release.ledger is None else _books(job)
            rows = _stream(job, surveyed.segments, count, float(on_gpu), subjects, driver, books)
            for row in rows.iter_batches(batch_size=None, prefetch_batches=0):
                yield {key: int(sum(values)) for key, values in row.items()}

        yield from persistently(start, TRIES, again)


def _stream(
    job: Job, segments: tuple[Segment, ...], workers: int, gpus: float, subjects: Subjects, driver: str, books: Any
) -> Any:
    """The pipeline: a Ray data set whose rows are tallies of finished chunks."""
    pool = ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2)
    few = TaskPoolStrategy(size=-(-workers // 2))  # they wait for the network; more would only cost memory
    return (
        read_datasource(Listing(job, segments), override_num_blocks=len(segments), compute=few, num_cpus=0.25)
        .map(
            Worker, fn_constructor_args=(job, subjects, driver), compute=pool, num_cpus=1, num_gpus=gpus or None,
            max_restarts=-1, max_task_retries=TRIES,
        )
        .map(put, fn_args=(job, books), compute=few, num_cpus=0.25)
    )  # fmt: skip


def _books(job: Job) -> Any:
    """The ledger's writer, on this machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Books)
    return actor.options(scheduling_strategy=here).remote(job)


def gpus(address: str) -> int:
    """How many a cluster has. Raises ClusterError."""
    with ray_session(address):
        return int(ray.cluster_resources().get("GPU", 0))
