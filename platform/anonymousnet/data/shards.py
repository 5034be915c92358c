"""Preprocessed faces as sharded Parquet: the format, how it is written, how it is read.

    ROOT/{train,validation,test}/part-00000.parquet ...    a row per face: FACES
    ROOT/errors/part-00000.parquet ...                     a row per photo that gave no face: ERRORS
    ROOT/card.json, ROOT/README.md                         the dataset card: counts, hashes, settings, terms

Every file is a function of photos, labels and settings alone: same input, same bytes. card.json is written last, so
where it stands the data set is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.errors import DataError, StorageError

if TYPE_CHECKING:
    from anonymousnet.training.data import FaceTable

FORMAT = 1
"""Version of the format; raise it with every change that gives the same photo other bytes."""
SPLITS = ("train", "validation", "test")
GROUP = 256
"""Rows per row group: what a reader must decode to see one face."""

FACES = pa.schema([
    pa.field("name", pa.string(), nullable=False),
    pa.field("face", pa.int32(), nullable=False),             # 0, 1, ... within the photo, best score first
    pa.field("image", pa.binary(), nullable=False),           # aligned crop, face_px square, JPEG 95 4:4:4
    pa.field("attributes", pa.list_(pa.bool_(), 40)),         # CelebA's 40, official order; null: not known
    pa.field("identity", pa.int64(), nullable=False),         # -1: not known
    pa.field("landmarks", pa.list_(pa.float32(), 136)),       # 68 x, y in pixels of the crop; null: not known
    pa.field("points", pa.list_(pa.float32(), 10), nullable=False),  # the detector's 5 x, y in pixels of the crop
    pa.field("score", pa.float32(), nullable=False),          # the detector's, 0 to 1
    pa.field("sharpness", pa.float32(), nullable=False),      # variance of the crop's Laplacian, grey levels squared
    pa.field("size", pa.float32(), nullable=False),           # side of the crop, in pixels of the photo
])  # fmt: skip
ERRORS = pa.schema([pa.field(key, pa.string(), nullable=False) for key in ("name", "kind", "reason")])

_NOTE = b"anonymousnet"
_TERMS = {
    "celeba": "CelebA is for non-commercial research only and must not be passed on; nor must these faces.",
    "photos": "Faces of the people in the source's photos: what they allowed for the photos holds for these faces.",
}


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """One finished shard."""

    file: str
    """Relative to the root."""
    rows: int
    sha256: str
    photos: int
    errors: dict[str, int]
    """Kind of error -> photos that gave no face because of it."""


def to_parquet(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, note: Mapping[str, Any]) -> bytes:
    """One Parquet file, always the same for the same rows; `note` goes into its metadata."""
    table = pa.Table.from_pylist(list(rows), schema.with_metadata({_NOTE: json.dumps(note, sort_keys=True)}))
    sink = io.BytesIO()
    # JPEG does not shrink any further; checksums tell a damaged page from a good one.
    pq.write_table(table, sink, row_group_size=GROUP, compression="none", write_page_checksum=True)
    return sink.getvalue()


def shard_parquet(
    rows: Sequence[Mapping[str, Any]], job: str, photos: int, errors: Sequence[Mapping[str, str]]
) -> bytes:
    """The file of one shard: its faces, the hash of its job, how many photos it had and what went wrong with some."""
    kinds = Counter(error["kind"] for error in errors)
    return to_parquet(rows, FACES, {"format": FORMAT, "job": job, "photos": photos, "errors": kinds})


def summarize(data: bytes, file: str, job: str) -> ShardSummary:
    """What a shard's bytes say of themselves. Raises DataError unless they are a whole shard of this job."""
    with _explained(file):
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    note = json.loads((table.schema.metadata or {}).get(_NOTE, b"{}"))
    if note.get("job") != job:
        raise DataError(
            f"{file}: expected a shard of job {job[:12]}, found {str(note.get('job', 'none of ours'))[:12]}: other "
            "photos, settings or software; choose another DST, or delete this one"
        )
    return ShardSummary(file, len(table), hashlib.sha256(data).hexdigest(), note["photos"], note["errors"])


def make_card(
    job: str, source: str, layout: str, face_px: int, settings: Mapping[str, Any], shards: Sequence[ShardSummary]
) -> dict[str, Any]:
    """The dataset card, from all shards in order."""
    errors = sum((Counter(shard.errors) for shard in shards), Counter[str]())
    splits = {
        split: [
            {"file": shard.file, "rows": shard.rows, "sha256": shard.sha256}
            for shard in shards
            if shard.file.startswith(f"{split}/")
        ]
        for split in SPLITS
    }
    return {
        "format": FORMAT,
        "job": job,
        "content_sha256": hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest(),
        "face_px": face_px,
        "source": source,
        "layout": layout,
        "counts": {
            "photos": sum(shard.photos for shard in shards),
            "faces": sum(shard.rows for shard in shards),
            "errors": dict(sorted(errors.items())),
        },
        "settings": dict(settings),
        "terms": _TERMS[layout],
        "splits": splits,
    }


def card_page(card: Mapping[str, Any]) -> str:
    """The card for people, in Markdown."""
    counts, settings = card["counts"], card["settings"]
    errors = ", ".join(f"{count} {kind}" for kind, count in counts["errors"].items()) or "none"
    sizes = [
        f"| {split} | {len(files)} | {sum(file['rows'] for file in files)} |" for split, files in card["splits"].items()
    ]
    return "\n".join([
        f"# Aligned faces, {card['face_px']} px",
        "",
        f"{counts['faces']} faces from the {counts['photos']} photos in `{card['source']}`, aligned and cropped by "
        f"`anonymousnet preprocess`. Photos that gave none (in `errors/`, with reasons): {errors}.",
        "",
        f"**Terms.** {card['terms']}",
        "",
        "| split | shards | faces |",
        "|---|---|---|",
        *sizes,
        "",
        f"Content SHA-256 `{card['content_sha256']}` (over the shards' own, in order; each is in `card.json`), "
        f"job `{card['job']}`.",
        "",
        "Settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()) + ".",
        "",
    ])  # fmt: skip


def is_dataset(root: str | Path, filesystem: pafs.FileSystem | None = None) -> bool:
    """Whether a complete data set is there: its card.json."""
    filesystem = filesystem or pafs.LocalFileSystem()
    return bool(filesystem.get_file_info(f"{root}/card.json").type == pafs.FileType.File)


@dataclass(frozen=True, slots=True)
class ShardSet:
    """The shards of one split, in order."""

    root: str
    face_px: int
    files: tuple[str, ...]
    """Paths within `filesystem`."""
    rows: tuple[int, ...]
    filesystem: pafs.FileSystem

    def __len__(self) -> int:
        """Faces."""
        return sum(self.rows)

    def identities(self) -> NDArray[np.int64]:
        """(N,) identity numbers of all rows, in order; -1 where unknown. Raises DataError, StorageError."""
        columns = []
        for file in self.files:
            with _explained(file):
                table = pq.read_table(file, columns=["identity"], filesystem=self.filesystem)
                columns.append(table["identity"].to_numpy())
        return np.concatenate(columns).astype(np.int64)


def open_shards(root: str | Path, split: str, filesystem: pafs.FileSystem | None = None) -> ShardSet:
    """The shards of a split, as card.json lists them; `root` is a path within `filesystem` (default: this machine's).

    Raises StorageError when the card or a shard is not there, DataError when the card does not read or has no faces.
    """
    filesystem = filesystem or pafs.LocalFileSystem()
    path = f"{root}/card.json"
    with _explained(path):
        if filesystem.get_file_info(path).type != pafs.FileType.File:
            raise FileNotFoundError(path)
        card = _parse(filesystem.open_input_file(path).read(), path)
    listed = card["splits"].get(split, [])
    rows = tuple(int(entry["rows"]) for entry in listed)
    if not sum(rows):
        raise DataError(f"expected faces of split '{split}' in {path}, found none; it has {', '.join(card['splits'])}")
    files = tuple(f"{root}/{entry['file']}" for entry in listed)
    for info in filesystem.get_file_info(list(files)):
        if info.type != pafs.FileType.File:
            with _explained(info.path):
                raise FileNotFoundError(info.path)
    return ShardSet(str(root), int(card["face_px"]), files, rows, filesystem)


def read_rows(shards: ShardSet, file_index: int, rows: NDArray[np.int64] | None) -> pa.Table:
    """Rows of one shard in the given order (None: all): only the row groups that hold them are read.

    Raises DataError naming the shard when what is read of it is damaged, StorageError when it is not there.
    """
    path = shards.files[file_index]
    with _explained(path), pq.ParquetFile(path, filesystem=shards.filesystem, page_checksum_verification=True) as file:
        if rows is None:
            return file.read()
        groups, places = np.unique(rows // GROUP, return_inverse=True)
        # All row groups but the last hold GROUP rows, and the last one read is the only one that may be shorter.
        return file.read_row_groups(groups.tolist()).take(pa.array(places * GROUP + rows % GROUP))


def decode(table: pa.Table, px: int) -> FaceTable:
    """Rows as read -> faces at `px` with raw identities; landmarks in pixels of the face, or None where any is null.

    Raises DataError when faces carry no attributes or an image is damaged.
    """
    from anonymousnet.training.data import FaceTable  # torch, which those who write shards can do without

    if missing := table["attributes"].null_count:
        raise DataError(
            f"expected attributes with every face, {missing} of {len(table)} have none; preprocess a folder in "
            "CelebA's layout, whose list_attr_celeba.txt has them"
        )
    faces, sides = np.empty((len(table), 3, px, px), np.uint8), np.empty(len(table), np.float32)
    for i, (name, data) in enumerate(zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True)):
        faces[i], sides[i] = _decode_image(data, name, px)
    landmarks = None
    if not table["landmarks"].null_count:
        landmarks = _matrix(table["landmarks"], 136).reshape(-1, 68, 2) * (np.float32(px) / sides)[:, None, None]
    identities = table["identity"].to_numpy().astype(np.int64)
    return FaceTable(faces, _matrix(table["attributes"], 40), identities, landmarks)


def _decode_image(data: bytes, name: str, px: int) -> tuple[NDArray[np.uint8], int]:
    """uint8 (3, px, px), and the side it was stored at."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError as error:
        raise DataError(f"face of {name}: its image does not decode ({error}); preprocess it again") from error
    side = image.width
    if side != px:
        image = image.resize((px, px), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1), side


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[Any]:
    """A fixed-size list column without nulls: (N, width)."""
    return np.concatenate([c.flatten().to_numpy(zero_copy_only=False) for c in column.chunks]).reshape(-1, width)


def _parse(data: bytes, path: str) -> dict[str, Any]:
    try:
        card = json.loads(data)
        if card["format"] == FORMAT and card["splits"] is not None and card["face_px"]:
            return dict(card)
        found = f"format {card['format']}"
    except (ValueError, KeyError, TypeError) as error:
        found = f"something else ({error!r})"
    raise DataError(f"{path}: expected a dataset card of format {FORMAT}, found {found}; preprocess the photos again")


@contextmanager
def _explained(file: str) -> Iterator[None]:
    """pyarrow's errors about one file, as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(
            f"no such file: {file}; `anonymousnet preprocess` writes it: run it again with the same SRC and DST"
        ) from error
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, PermissionError) or "AWS Error" in said:
            raise StorageError(f"cannot read {file}: {said}; check network, credentials and rights") from error
        raise DataError(
            f"{file} is damaged ({said}); delete it and run `anonymousnet preprocess` again with the same SRC and DST: "
            "only what is missing is done"
        ) from error
