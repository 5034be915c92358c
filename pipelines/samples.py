"""What an object of a source holds (a photo, a tar shard, a Parquet file): taken apart, and put together as released.

- *photo*: one photo.
- *webdataset*: a tar; members that share a name up to the first dot are one sample. A sample is released whole or not
  at all.
- *parquet*: a row per photo.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anonymousnet.config import BulkConfig
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import PHOTO_SUFFIXES
from anonymousnet.errors import DataError

LARGEST = 512 << 20
"""Bytes; a larger object is withheld: it travels through memory in one piece."""
COLUMNS = ("image", "img", "jpg", "png", "photo", "bytes")
"""Where photos are looked for in a Parquet file."""
FACE = pa.struct([
    ("attributes", pa.struct([(name, pa.bool_()) for name in ATTRIBUTES])),  # as Stage II released them
    ("landmarks", pa.list_(pa.float32(), 10)),  # 5 x, y in pixels of the photo: where the painted face has them
])  # fmt: skip
_SPEAK_OF_THE_SOURCE = {"attributes", "landmarks", "faces"}
"""Columns that are written anew, whatever the policy for the others."""
_FAMILY = {".jpg": (".jpg", ".jpeg", ".jpe", ".jfif")}
CONTENT_TYPES = {
    ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".tar": "application/x-tar",
    ".parquet": "application/vnd.apache.parquet",
}  # fmt: skip

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Item:
    """One photo within an object. PRIVATE."""

    name: str
    """Member or row; empty where the object is the photo."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Released:
    """One photo as it is let out."""

    data: bytes
    suffix: str
    width: int
    height: int
    faces: tuple[dict[str, Any], ...]
    """Each as FACE says; none where a photo without faces was copied."""


def kind_of(name: str) -> str | None:
    """How to read an object of this name; None for what is neither a photo nor an archive, and for hidden files."""
    path = PurePosixPath(name)
    if name.endswith("/") or any(part.startswith(".") and part.strip(".") for part in path.parts):
        return None
    suffix = path.suffix.lower()
    return "photo" if suffix in PHOTO_SUFFIXES else {".tar": "webdataset", ".parquet": "parquet"}.get(suffix)


def same_suffix(name: str, suffix: str) -> bool:
    """Whether a file of this name is of the format that `suffix` stands for."""
    return PurePosixPath(name).suffix.lower() in _FAMILY.get(suffix, (suffix,))


def unpack(kind: str, data: bytes, policy: BulkConfig) -> list[Item]:
    """The photos of an object, in order. Raises DataError when the object does not read or holds none."""
    if kind == "photo":
        return [Item("", data)]
    found = _tar_photos(data) if kind == "webdataset" else _rows(data, policy)
    if not found:
        raise DataError(f"expected photos in this {kind} file, found none; check that it is whole")
    return found


def pack(
    kind: str, data: bytes, released: Mapping[str, Released], policy: BulkConfig, rename: Rename
) -> tuple[bytes, dict[str, str]]:
    """An object with its released photos alone, and what each of them is called in it.

    `rename` gives the new name of a sample or row.
    """
    if kind == "photo":
        return released[""].data, {"": ""}
    return (_tar if kind == "webdataset" else _parquet)(data, released, policy, rename)


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Regular files of a tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"expected a tar file, found a damaged one ({error}); copy it again") from error


def _tar_photos(data: bytes) -> list[Item]:
    return [Item(name, content) for name, content in _members(data) if kind_of(name) == "photo"]


def _sample(name: str) -> tuple[str, str]:
    """(sample, extension) of a member: split at the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension


def _tar(
    data: bytes, released: Mapping[str, Released], policy: BulkConfig, rename: Rename
) -> tuple[bytes, dict[str, str]]:
    members = [(name, content, *_sample(name)) for name, content in _members(data)]
    broken = {key for name, _, key, _ in members if kind_of(name) == "photo" and name not in released}
    out, names = io.BytesIO(), {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, key, extension in members:
            if key in broken:
                continue
            if name in released:
                photo = released[name]
                ending = extension if same_suffix(name, photo.suffix) else extension + photo.suffix
                names[name] = f"{rename(key)}.{ending}"
                _add(archive, names[name], photo.data)
                _add(archive, f"{names[name]}.json", json.dumps({"faces": photo.faces}).encode())
            elif policy.members == "copy":
                _add(archive, f"{rename(key)}.{extension}" if extension else rename(key), content)
    return out.getvalue(), names


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Without owner and time, so that the bytes depend on nothing else."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def _rows(data: bytes, policy: BulkConfig) -> list[Item]:
    table = _table(data)
    column = table[_image_column(table, policy)].to_pylist()
    images = [value["bytes"] if isinstance(value, dict) else value for value in column]
    return [Item(str(i), image or b"") for i, image in enumerate(images)]


def _table(data: bytes) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"expected a Parquet file, found a damaged one ({said}); copy it again") from error


def _image_column(table: pa.Table, policy: BulkConfig) -> str:
    for name in COLUMNS if policy.image_column is None else (policy.image_column,):
        if name in table.column_names:
            kind = table.schema.field(name).type
            bare = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if bare or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    raise DataError(
        f"expected a column of photos ({policy.image_column or ', '.join(COLUMNS)}), found "
        f"{', '.join(table.column_names)}; name it with bulk.image_column"
    )


def _parquet(
    data: bytes, released: Mapping[str, Released], policy: BulkConfig, rename: Rename
) -> tuple[bytes, dict[str, str]]:
    table = _table(data)
    column = _image_column(table, policy)
    rows = [i for i in range(len(table)) if str(i) in released]
    photos, names = [released[str(i)] for i in rows], {str(i): rename(str(i)) for i in rows}
    kept = table.take(pa.array(rows, pa.int64()))
    others = [name for name in table.column_names if name != column and name not in _SPEAK_OF_THE_SOURCE]
    new = pa.table({
        column: pa.array([photo.data for photo in photos], pa.binary()),
        "name": pa.array([names[str(i)] for i in rows], pa.string()),
        "faces": pa.array([as_faces(photo.faces) for photo in photos], pa.list_(FACE)),
        **{name: kept[name] for name in others if policy.members == "copy" and name != "name"},
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(new.replace_schema_metadata(None), sink, compression="none")
    return sink.getvalue(), names


def as_faces(faces: tuple[dict[str, Any], ...] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Faces of a record as FACE has them: attributes by name."""
    return [{**face, "attributes": dict(zip(ATTRIBUTES, face["attributes"], strict=True))} for face in faces]
