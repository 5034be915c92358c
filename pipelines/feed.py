"""Ray Data feeds a training worker: shards -> its rows of every batch, in the order of the plain loop -> tensors.

The order is `training.data.windows`: it depends on seed and epoch alone, so any number of workers sees the same
batches. Each worker runs a stream of its own, on its own machine. It reads every shard's bytes but decodes only its own
rows: decoding is what costs. What reads and decodes are actors that live as long as the stream: a machine whose disk is
full cannot start another process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from ray.data._internal.execution.execution_callback import ExecutionCallback

from anonymousnet.errors import AnonymousNetError
from anonymousnet.training.data import Batch, windows
from anonymousnet.training.source import Source

CHUNK = 256
"""Faces decoded at once."""
DECODERS = {"cuda": 4, "cpu": 0}
"""Processes that decode for one worker, at most. 0: the one that reads does; no network on a CPU outruns it, and each
costs such a network seconds to start."""
PAUSE_S = 0.25
"""Between two looks at what has been read."""


@dataclass(frozen=True)
class Slice:
    """Which rows of which steps a worker is fed."""

    seed: int
    batch: int
    """Faces of a whole batch, over all workers."""
    first: int
    steps: int
    """First step, and one past the last."""
    rank: int
    workers: int

    def own(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which positions, counted over all epochs, are this worker's."""
        step, place = positions // self.batch, positions % self.batch
        mine: NDArray[np.bool_] = (step >= self.first) & (step < self.steps) & (place % self.workers == self.rank)
        return mine


def feed(source: Source, part: Slice, device: torch.device, failures: Any = None) -> Iterator[Batch]:
    """A batch of `part.batch / part.workers` faces per step, from `part.first` on.

    `failures`: handle of an actor with `fail(error)` and `ask()`, which hears of a shard that does not read. Raises
    what reading raised: DataError, StorageError.
    """
    import ray
    from ray.data import ActorPoolStrategy
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Its log is a file in Ray's folder: on a full disk, closing it would end the run.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    n = source.contents.faces
    decoders = DECODERS[device.type]
    epochs = range(part.first * part.batch // n, (part.steps * part.batch - 1) // n + 1)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.custom_execution_callback_classes = [_Unhurried]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # No CPU is kept for them: they would hold it for the whole run, and validation would wait for ever. When one dies,
    # the worker does and comes back: a head that restarts stumbles over ended actors that could (Ray 2.60).
    beside: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": 0, "max_task_retries": 0}
    # One epoch is read at a time: the next one's shards would only wait in memory.
    epochs_read = ray.data.from_items([{"epoch": epoch} for epoch in epochs], override_num_blocks=len(epochs))
    faces = epochs_read.map_batches(
        _Read if decoders else _ReadDecoded, batch_size=1, compute=ActorPoolStrategy(size=1),
        fn_constructor_args=(source, part, failures), **beside,
    )  # fmt: skip
    if decoders:
        faces = faces.map_batches(
            _Decode, batch_size=CHUNK, batch_format="pyarrow", zero_copy_batch=True,
            compute=ActorPoolStrategy(min_size=1, max_size=decoders), fn_constructor_args=(source, failures), **beside,
        )  # fmt: skip
    batches = faces.iter_torch_batches(
        batch_size=part.batch // part.workers, prefetch_batches=2, drop_last=True, collate_fn=_collate(source)
    )
    for found in _plainly(batches, failures):
        images = found["faces"].to(device).float().div_(127.5).sub_(1)
        points = found["landmarks"].to(device) if source.landmarks else None
        yield Batch(
            images.contiguous(memory_format=torch.channels_last), found["attributes"].to(device).float(),
            found["identities"].to(device), points,
        )  # fmt: skip


class _Unhurried(ExecutionCallback):
    """Ray Data's loop asks without a pause while everything it runs has something to give and nobody wants it yet
    (ray 2.60). It runs in the training worker, where that took half a core and Python's lock from the network."""

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(PAUSE_S)


def _plainly(batches: Iterable[dict[str, torch.Tensor]], failures: Any) -> Iterator[dict[str, torch.Tensor]]:
    """The batches; an error of ours as it was raised in another process, out of what Ray Data makes of it."""
    import ray

    try:
        yield from batches
    except Exception:
        error = None if failures is None else ray.get(failures.ask.remote())[1]
        if error is None:
            raise
        raise error from None


@contextmanager
def _told(failures: Any) -> Iterator[None]:
    """Tell of an error of ours before Ray Data wraps it in words of its own."""
    import ray

    try:
        yield
    except AnonymousNetError as error:
        if failures is not None:
            ray.get(failures.fail.remote(error))
        raise


def _collate(source: Source) -> Any:
    """What makes tensors of a batch's table."""
    from ray.data.collate_fn import ArrowBatchCollateFn

    px = source.px
    kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
        "faces": (np.uint8, (3, px, px)), "attributes": (np.uint8, (40,)), "identities": (np.int64, ()),
        "landmarks": (np.float32, (68, 2)),
    }  # fmt: skip

    class Collate(ArrowBatchCollateFn):
        def __call__(self, batch: pa.Table) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return {name: _unpacked(batch[name], *kinds[name]) for name in batch.column_names}

    return Collate()


class _Read:
    """An epoch's rows of this worker, encoded, a few at a time."""

    def __init__(self, source: Source, part: Slice, failures: Any) -> None:
        self.source, self.part, self.failures = source, part, failures

    def __call__(self, item: dict[str, NDArray[np.int64]]) -> Iterator[pa.Table]:
        (epoch,) = item["epoch"]
        start = int(epoch) * self.source.contents.faces
        for window in windows(self.part.seed, int(epoch), self.source.sizes):
            own = window[self.part.own(np.arange(start, start + len(window)))]
            start += len(window)
            if len(own):
                with _told(self.failures):
                    encoded = self.source.read(own)
                yield from (encoded.slice(i, CHUNK) for i in range(0, len(encoded), CHUNK))


class _ReadDecoded(_Read):
    """An epoch's rows of this worker, decoded where they were read."""

    def __call__(self, item: dict[str, NDArray[np.int64]]) -> Iterator[pa.Table]:
        yield from map(_Decode(self.source, self.failures), super().__call__(item))


class _Decode:
    """Encoded rows to arrays, as columns of bytes."""

    def __init__(self, source: Source, failures: Any) -> None:
        self.source, self.failures = source, failures

    def __call__(self, encoded: pa.Table) -> pa.Table:
        with _told(self.failures):
            table = self.source.decode(encoded)
        columns: dict[str, NDArray[Any]] = {
            "faces": table.faces_N3HW, "attributes": table.attributes_N40.view(np.uint8),
            "identities": table.identities_N,
        }  # fmt: skip
        if table.landmarks_N682 is not None:
            columns["landmarks"] = table.landmarks_N682
        return pa.table({name: _packed(values) for name, values in columns.items()})


def _packed(values: NDArray[Any]) -> pa.Array:
    """(N, ...) as N fields of plain bytes. Ray's own tensor columns lose their place when batches cut across blocks
    ("buffer is too small for requested array", ray 2.60)."""
    whole = np.ascontiguousarray(values)
    width = whole[0].nbytes
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(whole), [None, pa.py_buffer(whole)])


def _unpacked(column: pa.ChunkedArray, dtype: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse of `_packed`."""
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8)[c.offset * c.type.byte_width :][: len(c) * c.type.byte_width]
        for c in column.chunks
    ]
    return torch.from_numpy(np.concatenate(parts).view(dtype).reshape(-1, *shape))
