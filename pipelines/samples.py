"""What an object of a source holds (a photo, a tar shard, a Parquet file): taken apart, and put together as released.

- *photo*: one photo.
- *webdataset*: a tar; members that share a name up to the first dot are one sample.
- *parquet*: a row is a sample.

A sample is let out if its photos are; what stands beside them (`0.seg.png` beside `0.jpg`) is left out. With
`bulk.members=copy` pictures are known by type and first bytes, whatever they are called: each is de-identified, or left
out alone where it shows no face; text goes along, and all else is left out. Whatever is left out is named, privately,
with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from anonymousnet.config import BulkConfig
from anonymousnet.data.archives import LARGEST as LARGEST
from anonymousnet.data.archives import check_archive
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import PHOTO_SUFFIXES
from anonymousnet.errors import AnonymousNetError, DataError, StorageError

FACE = pa.struct([
    ("attributes", pa.struct([(name, pa.bool_()) for name in ATTRIBUTES])),  # as Stage II released them
    ("landmarks", pa.list_(pa.float32(), 10)),  # 5 x, y in pixels of the photo: where the painted face has them
])  # fmt: skip
_FAMILY = {".jpg": (".jpg", ".jpeg", ".jpe", ".jfif")}
CONTENT_TYPES = {
    ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".tar": "application/x-tar",
    ".parquet": "application/vnd.apache.parquet",
}  # fmt: skip

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Item:
    """One photo within an object. PRIVATE. Raises DataError unless its data are bytes: a name would be opened."""

    name: str
    """Member, row, or row/place; empty where the object is the photo."""
    data: bytes
    sample: str = ""
    """Key of a tar's sample, or row."""

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes):
            raise DataError(f"expected a photo's bytes, found {type(self.data).__name__}; a path is never opened")


@dataclass(frozen=True, slots=True)
class Packed:
    """An object with its released photos alone."""

    data: bytes
    names: dict[str, str]
    """Photo -> what it is called in the object."""
    left_out: dict[str, str]
    """Member, column, row/place -> why it is not in the object. PRIVATE."""


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


def check_kept(name: str) -> None:
    """Raise StorageError unless a name of the source, of an object or a member, may be kept in a release."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "//" in name:
        raise StorageError(f"{name}: a name that leads elsewhere cannot be kept; rename it, or use hashed names")
    if not name.isprintable():  # nor is what is not UTF-8
        raise StorageError(f"{name!r}: a name that cannot be printed cannot be kept; rename it, or use hashed names")


def unpack(kind: str, data: bytes, policy: BulkConfig) -> list[Item]:
    """The photos of an object, in order. Raises DataError when the object does not read or holds none."""
    if kind == "photo":
        return [Item("", data)]
    from anonymousnet.pipelines import tables, tars

    try:
        check_archive("webdataset" if kind == "webdataset" else "parquet", data)
        found = tars.unpack(data, policy) if kind == "webdataset" else tables.unpack(data, policy)
    except (AnonymousNetError, MemoryError):
        raise
    except Exception as error:  # types and names may be as odd as anybody can make them
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"expected a {kind} file, found one that does not read ({said}); pack it anew") from error
    if not found:
        raise DataError(f"expected photos in this {kind} file, found none; check that it is whole")
    return found


def pack(
    kind: str, data: bytes, released: Mapping[str, Released], withheld: Mapping[str, tuple[str, str]],
    policy: BulkConfig, rename: Rename,
) -> Packed:  # fmt: skip
    """Put an object together. `withheld`: kind and reason of each photo that may not be let out.

    `rename` gives the new name of a sample or row.
    """
    if kind == "photo":
        return Packed(released[""].data, {"": ""}, {})
    from anonymousnet.pipelines import tables, tars

    fate = Fate(released, withheld)
    if kind == "webdataset":
        return tars.pack(data, fate, policy, rename)
    return tables.pack(data, fate, policy, rename)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of an object's photos."""

    released: Mapping[str, Released]
    withheld: Mapping[str, tuple[str, str]]

    def stands(self, photos: Sequence[str]) -> bool:
        """Whether the sample of these photos may be let out: one is released, the others are or show no face."""
        lost = [name for name in photos if name not in self.released]
        return len(lost) < len(photos) and all(self.withheld.get(name, ("",))[0] == "NoFaceFound" for name in lost)

    def reason(self, name: str) -> str:
        """Why a photo is not let out."""
        return self.withheld.get(name, ("", "it was not protected"))[1]


def as_faces(faces: tuple[dict[str, Any], ...] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Faces of a record as FACE has them: attributes by name."""
    return [{**face, "attributes": dict(zip(ATTRIBUTES, face["attributes"], strict=True))} for face in faces]
