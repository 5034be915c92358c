"""Parquet files: a row is a sample, and pictures may stand in any column."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anonymousnet.config import BulkConfig
from anonymousnet.data.content import PIXELS, is_picture
from anonymousnet.errors import DataError
from anonymousnet.pipelines.columns import (
    NUMBERS,
    OURS,
    Rewrite,
    find_primary,
    is_harmless,
    is_known,
    leaves,
    plain_type,
)
from anonymousnet.pipelines.samples import FACE, Fate, Item, Packed, Rename, as_faces, kind_of


def _table(data: bytes) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"expected a Parquet file, found a damaged one ({said}); copy it again") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise DataError("expected columns of different names, found one name twice; rename one")
    return table


def unpack(data: bytes, policy: BulkConfig) -> list[Item]:
    """Each row's photo, or photos; then, where other columns may be let out, their pictures. Raises DataError."""
    table = _table(data)
    primary = find_primary(table, policy.image_column)
    found = []
    for row, photos in enumerate(_photos_in(table, primary)):
        found += [Item(name, content, str(row)) for name, content in photos.items()]
    for column in _other_columns(table, primary, policy):
        kind = plain_type(table.schema.field(column).type)
        for row, value in enumerate(table[column].to_pylist()):
            for place, content in leaves(value, kind, column):
                if is_picture(content):
                    found.append(Item(f"{row}/{place}", content, str(row)))
    return found


def _photos_in(table: pa.Table, primary: str) -> Iterator[dict[str, bytes]]:
    """Names and bytes of each row's photos; one that is missing has no bytes."""
    kind = plain_type(table.schema.field(primary).type)
    for row, value in enumerate(table[primary].to_pylist()):
        photos = [content for _, content in leaves(value, kind, primary)] or [b""]
        yield {str(row) if i == 0 else f"{row}/{primary}[{i}]": content for i, content in enumerate(photos)}


def _other_columns(table: pa.Table, primary: str, policy: BulkConfig) -> list[str]:
    if policy.members == "drop":
        return []
    return [name for name in table.column_names if name != primary and name not in OURS]


def pack(data: bytes, fate: Fate, policy: BulkConfig, rename: Rename) -> Packed:
    """The table of the rows that may be let out."""
    table = _table(data)
    primary = find_primary(table, policy.image_column)
    photos = list(_photos_in(table, primary))
    rows = [row for row, names in enumerate(photos) if fate.stands(list(names))]
    new = _NewTable(table, rows, fate, rename)
    columns = {primary: new.photos(primary, [list(photos[row]) for row in rows], policy)}
    named, faces = new.row_names(), [
        [face for name in photos[row] if name in fate.released for face in fate.released[name].faces] for row in rows
    ]  # fmt: skip
    columns |= {"name": pa.array(named, pa.string()), "faces": pa.array(map(as_faces, faces), pa.list_(FACE))}
    others = _other_columns(table, primary, policy)
    many = sum(is_harmless(plain_type(table.schema.field(name).type)) for name in others) > PIXELS
    for name in others:
        if many and is_harmless(plain_type(table.schema.field(name).type)):
            new.left_out[name] = NUMBERS
        elif (column := new.other(name, policy)) is not None:
            columns[name] = column
    for name in table.column_names:
        if name not in columns:
            new.left_out.setdefault(name, "bulk.members=drop" if policy.members == "drop" else "written anew")
    sink = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(None), sink, compression="none")
    return Packed(sink.getvalue(), new.names, new.left_out)


class _NewTable:
    """The rows of a table that may be let out, column by column."""

    def __init__(self, table: pa.Table, rows: list[int], fate: Fate, rename: Rename) -> None:
        self.table, self.rows, self.fate, self.rename = table, rows, fate, rename
        self.names: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._count = Counter[int]()

    def row_names(self) -> list[str]:
        return [self.rename(str(row)) for row in self.rows]

    def photos(self, column: str, names: list[list[str]], policy: BulkConfig) -> pa.Array:
        """The column that the rows are about; `names`: of each row's photos, in the order of their places."""
        return self._column(column, policy, dict(zip(self.rows, names, strict=True)))

    def other(self, column: str, policy: BulkConfig) -> Any:
        """Another column; None where nothing of it may be let out."""
        kind = plain_type(self.table.schema.field(column).type)
        if is_harmless(kind):
            return self.table[column].take(pa.array(self.rows, pa.int64()))
        if not is_known(kind):
            self.left_out[column] = f"a type that is not known here ({kind})"
            return None
        return self._column(column, policy, None)

    def _column(self, column: str, policy: BulkConfig, names: dict[int, list[str]] | None) -> Any:
        kind, values = plain_type(self.table.schema.field(column).type), self.table[column].to_pylist()
        new, kept, lost = [], 0, dict[str, str]()
        for row in self.rows:
            places = [place for place, _ in leaves(values[row], kind, column)]
            called = names[row] if names else [f"{row}/{place}" for place in places]
            pictures = {
                place: self._released(name, row) for place, name in zip(places, called, strict=False)
                if name in self.fate.released
            }  # fmt: skip
            rewrite = Rewrite(pictures, policy.members == "copy", lambda text: kind_of(text) == "photo")
            new.append(rewrite(values[row], kind, column))
            kept += rewrite.kept
            known = dict(zip(places, called, strict=False))
            for place, why in rewrite.lost.items():
                name = known.get(place, f"{row}/{place}")
                lost[name] = self.fate.withheld.get(name, ("", why))[1]
        if lost and not kept:
            self.left_out[column] = next(iter(lost.values()))
            self.left_out |= {name: why for name, why in lost.items() if name in self.fate.withheld}
            return None
        self.left_out |= lost
        return pa.array(new, kind)

    def _released(self, name: str, row: int) -> tuple[bytes, str]:
        """A released picture's bytes, and what it is called with its suffix."""
        self._count[row] += 1
        number = self._count[row]
        self.names[name] = self.rename(str(row)) + (f".{number}" if number > 1 else "")
        return self.fate.released[name].data, self.names[name] + self.fate.released[name].suffix
