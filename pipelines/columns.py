"""Parquet tables of photos: where pictures stand in them, by type and first bytes, and the same table with others.

A *leaf* is one value that bytes or text may stand in, however deep in lists, structs and maps. Its *place* is what it
is called within its row, such as `image`, `image.bytes` or `views[1].bytes`. Whatever a leaf says, no file is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from anonymousnet.data.content import PIXELS, is_picture, is_plain
from anonymousnet.errors import DataError

USUAL = ("image", "img", "jpg", "png", "photo", "bytes")
"""Columns that photos usually stand in."""
OURS = ("name", "attributes", "landmarks", "faces")
"""Columns that are written anew, or speak of the source: never copied."""
NUMBERS = "so many numbers may be a picture"
BINARY = "neither a picture nor text"
TEXT = "a text that may hide a picture, or names one"

Names = Callable[[str], bool]


def plain_type(kind: Any) -> Any:
    """The same type without dictionaries, views, fixed sizes and extensions: what other bytes fit into."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if _is_bytes(kind):
        return pa.large_binary() if types.is_large_binary(kind) else pa.binary()
    if _is_text(kind):
        return pa.large_string() if types.is_large_string(kind) else pa.string()
    if types.is_struct(kind):
        return pa.struct([pa.field(one.name, plain_type(one.type)) for one in kind])
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if _is_list(kind):
        of = plain_type(kind.value_type)
        return pa.large_list(of) if types.is_large_list(kind) else pa.list_(of)
    return kind


def find_primary(table: Any, asked: str | None) -> str:
    """The column that holds the photos: the one asked for, or the first with pictures, the usual names before others.

    Raises DataError naming the columns and their types.
    """
    usable = [f.name for f in table.schema if f.name not in OURS and _has_bytes(plain_type(f.type))]
    if asked is not None:
        usable = [name for name in usable if name == asked]
    usual = [name for name in USUAL if name in usable]
    ordered = [*usual, *(name for name in usable if name not in usual)]
    with_pictures = (name for name in ordered if any(is_picture(leaf) for leaf in _all_bytes(table[name])))
    found: str | None = next(with_pictures, None) or next(iter(usual if asked is None else usable), None)
    if found is None:
        columns = ", ".join(f"{one.name} ({one.type})" for one in table.schema)
        raise DataError(
            f"expected a column of photos ({asked or 'bytes that begin as a picture'}), found {columns}; keep "
            "pictures' bytes in it: a path is never opened"
        )
    return found


def leaves(value: Any, kind: Any, place: str) -> Iterator[tuple[str, bytes]]:
    """(place, bytes) of every leaf of bytes in one value of a plain type."""
    if value is None:
        return
    if pa.types.is_struct(kind):
        for one in kind:
            yield from leaves(value[one.name], one.type, f"{place}.{one.name}")
    elif pa.types.is_map(kind):
        for i, (key, item) in enumerate(value):
            yield from leaves(key, kind.key_type, f"{place}[{i}].key")
            yield from leaves(item, kind.item_type, f"{place}[{i}]")
    elif _is_list(kind) and _has_bytes(kind):
        for i, item in enumerate(value):
            yield from leaves(item, kind.value_type, f"{place}[{i}]")
    elif _is_bytes(kind):
        yield place, value


@dataclass
class Rewrite:
    """Values with other bytes in the place of pictures, and nothing where that may not be."""

    pictures: dict[str, tuple[bytes, str]]
    """Place -> the released bytes, and what they are called."""
    texts: bool
    """Whether texts and numbers are kept."""
    names: Names
    """Whether a text is the name of a photo."""
    kept: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    """Place -> why nothing stands there any more."""

    def __call__(self, value: Any, kind: Any, place: str) -> Any:
        """The new value of a plain type."""
        if value is None:
            return None
        if pa.types.is_struct(kind):
            return self._struct(value, kind, place)
        if pa.types.is_map(kind):
            pairs = [
                (self(key, kind.key_type, f"{place}[{i}].key"), self(item, kind.item_type, f"{place}[{i}]"))
                for i, (key, item) in enumerate(value)
            ]
            return [pair for pair in pairs if pair[0] is not None]  # a map's keys may not be missing
        if _is_list(kind):
            if not _has_leaves(kind) and _count(value) > PIXELS:
                return self._without(place, NUMBERS)
            return [self(item, kind.value_type, f"{place}[{i}]") for i, item in enumerate(value)]
        if _is_bytes(kind):
            if place not in self.pictures:
                return self._without(place, BINARY)
            self.kept += 1
            return self.pictures[place][0]
        if not self.texts:
            return None
        if _is_text(kind) and not (is_plain(value) and not self.names(value)):
            return self._without(place, TEXT)
        self.kept += 1
        return value

    def _struct(self, value: Any, kind: Any, place: str) -> Any:
        """Hugging Face's struct keeps its form: its `path` is what the released picture is called, or nothing."""
        new = {}
        for one in kind:
            at = f"{place}.{one.name}"
            if one.name == "path" and kind.get_field_index("bytes") >= 0:
                new["path"] = self.pictures.get(f"{place}.bytes", (b"", None))[1] if _is_text(one.type) else None
            else:
                new[one.name] = self(value[one.name], one.type, at)
        return new

    def _without(self, place: str, why: str) -> None:
        self.lost[place] = why


def _all_bytes(column: Any) -> Iterator[bytes]:
    kind = plain_type(column.type)
    for value in column.to_pylist():
        for _, data in leaves(value, kind, ""):
            yield data


def _has_bytes(kind: Any) -> bool:
    return any(map(_is_bytes, _ends(kind)))


def _has_leaves(kind: Any) -> bool:
    return any(_is_bytes(end) or _is_text(end) for end in _ends(kind))


def is_harmless(kind: Any) -> bool:
    """Whether no value of a type can hold a picture: one number, date or truth value, or structs of such."""
    types = pa.types
    if types.is_struct(kind):
        return all(is_harmless(one.type) for one in kind)
    single = (types.is_boolean, types.is_integer, types.is_floating, types.is_temporal, types.is_decimal, types.is_null)
    return any(one(kind) for one in single)


def is_known(kind: Any) -> bool:
    """Whether a plain type is one that values can be rewritten in."""
    return all(is_harmless(end) or _is_bytes(end) or _is_text(end) for end in _ends(kind))


def _ends(kind: Any) -> Iterator[Any]:
    """The types that a plain type is made of."""
    if pa.types.is_struct(kind):
        for one in kind:
            yield from _ends(one.type)
    elif pa.types.is_map(kind):
        yield from _ends(kind.key_type)
        yield from _ends(kind.item_type)
    elif _is_list(kind):
        yield from _ends(kind.value_type)
    else:
        yield kind


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 1


def _is_bytes(kind: Any) -> bool:
    types = pa.types
    return any(one(kind) for one in (
        types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary,
    ))  # fmt: skip


def _is_text(kind: Any) -> bool:
    types = pa.types
    return any(one(kind) for one in (types.is_string, types.is_large_string, types.is_string_view))


def _is_list(kind: Any) -> bool:
    types = pa.types
    return any(one(kind) for one in (
        types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view,
    ))  # fmt: skip
