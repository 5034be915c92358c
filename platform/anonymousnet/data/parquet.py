"""How much a Parquet file holds, found by reading it batch by batch: a few hundred bytes may stand for gigabytes.

Imported by the process that reads strangers' files (`sandbox`): few modules.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anonymousnet.errors import DataError

MOST_VALUES = 1 << 25
"""Each becomes an object of Python's, of 32 bytes and more."""
_BATCH = 256
"""Rows."""


def answer(stream: BinaryIO, largest: int) -> tuple[dict[str, Any], list[bytes]]:
    """Read a whole file, as a task of `sandbox`: its rows. Raises DataError: damaged, or more than `largest` bytes."""
    pa.set_cpu_count(1)
    size = values = rows = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(_BATCH, use_threads=False):
            for column in batch.columns:
                more = extent(column)
                size, values = size + more[0], values + more[1]
            rows += batch.num_rows
            if size > largest:
                raise DataError(f"expected at most {largest >> 20} MiB once read, found more; split it")
            if values > MOST_VALUES:
                raise DataError(f"expected at most {MOST_VALUES} values, found more; split it")
    except (DataError, MemoryError):
        raise
    except Exception as error:  # fed a damaged file, the reader raises nearly anything
        said = " ".join(str(error).split())
        raise DataError(f"expected a Parquet file, found a damaged one ({said}); copy it again") from error
    return {"rows": rows}, []


def extent(array: Any) -> tuple[int, int]:
    """(bytes, values) of an array with every value written out where it stands."""
    kind, types = array.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return extent(array.storage)
    if types.is_dictionary(kind):
        return extent(array.dictionary_decode())
    if types.is_run_end_encoded(kind):
        return extent(pc.run_end_decode(array))
    if types.is_struct(kind):
        parts = array.flatten()
    elif types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()  # it may be a slice of another
        parts = [one.slice(first, last - first) for one in (array.keys, array.items)]
    elif types.is_nested(kind) and not types.is_union(kind):
        parts = [array.flatten()]
    else:
        return array.nbytes, len(array)
    inside = [extent(part) for part in parts]
    return sum(size for size, _ in inside), len(array) + sum(count for _, count in inside)
