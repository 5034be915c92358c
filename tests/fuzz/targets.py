"""What reads strangers' files, and what must hold whatever is in them. Each returns a word for the outcome.

A target raises AssertionError when something of another entry is lost; nothing but `errors` may come out of our code.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from anonymousnet.config import BulkConfig
from anonymousnet.data.images import load_photo
from anonymousnet.errors import DataError, ImageError
from anonymousnet.pipelines.manifest import STATEMENT, signed
from anonymousnet.pipelines.samples import Released, pack, unpack
from anonymousnet.pipelines.verify import verify
from tests.fuzz import seeds
from tests.fuzz.damage import Random, damaged

PIXELS = 4_000_000
_PARTS = (STATEMENT, "manifest/part-00000.parquet", "photos/a.jpg")


def photo(rng: Random) -> tuple[str, bytes, str]:
    """One picture; the next one, whole, is read as ever."""
    name, data = _one_of(seeds.photos(), rng)
    data = damaged(data, list(seeds.photos().values()), rng)
    try:
        found = load_photo(data, PIXELS)
    except ImageError as error:
        outcome = type(error).__name__
    else:
        assert found.rgb.dtype == np.uint8
        assert found.rgb.ndim == 3
        assert 0 < found.rgb.size <= 3 * PIXELS
        outcome = "read"
    assert load_photo(seeds.photos()["png"], PIXELS).rgb.shape == (64, 48, 3), "the next photo is lost"
    return name, data, outcome


def tar(rng: Random) -> tuple[str, bytes, str]:
    """One shard: refused whole, or every member that was not touched is there as it was."""
    name, data = _one_of(seeds.tars(), rng)
    whole = {item.name: item.data for item in unpack("webdataset", data, BulkConfig())}
    if "." not in name and rng.random() < 0.4:  # within one member's bytes: the others must all be there
        return name, *_within_one(data, whole, rng)
    return name, *_archive("webdataset", damaged(data, [*seeds.tars().values(), *seeds.photos().values()], rng))


def table(rng: Random) -> tuple[str, bytes, str]:
    """One Parquet file."""
    name, data = _one_of(seeds.tables(), rng)
    return name, *_archive("parquet", damaged(data, [*seeds.tables().values(), *seeds.photos().values()], rng))


def manifest(rng: Random) -> tuple[str, bytes, str]:
    """One file of a release: `verify` refuses it or says what is changed; also what was signed by who means harm."""
    with TemporaryDirectory() as folder:
        seeds.release(Path(folder))
        name = _PARTS[int(rng.integers(3))]
        file = Path(folder, name)
        before = file.read_bytes()
        data = damaged(before, [*seeds.tables().values(), Path(folder, STATEMENT).read_bytes()], rng)
        file.write_bytes(data)
        if name != _PARTS[2] and rng.random() < 0.5:
            statement = json.loads(Path(folder, STATEMENT).read_bytes() if name != STATEMENT else before)["statement"]
            if name == STATEMENT:
                statement[sorted(statement)[int(rng.integers(4))]] = _ODD_JSON[int(rng.integers(len(_ODD_JSON)))]
            else:
                statement["files"][name] = hashlib.sha256(data).hexdigest()
            Path(folder, STATEMENT).write_bytes(signed(statement, seeds.KEY))
            data = Path(folder, STATEMENT).read_bytes() + data
        try:
            found = verify(folder)
        except DataError as error:
            return name, data, type(error).__name__
        assert found.whole == (not any(found.totals.values()))
        assert not found.whole or file.read_bytes() == before or name != _PARTS[2], "a change was not seen"
        return name, data, "whole" if found.whole else "changed"


_ODD_JSON = (
    None, 0, -1, 1.5, "", "x", [], [1], {}, {"a": None}, {"../x.parquet": "0"}, {"/etc/passwd": "0"}, {"a": "0"},
)  # fmt: skip
TARGETS = {"photo": photo, "tar": tar, "table": table, "manifest": manifest}
"""By name."""
SHARES = {"photo": 0.5, "tar": 0.2, "table": 0.2, "manifest": 0.1}


def _one_of(of: dict[str, bytes], rng: Random) -> tuple[str, bytes]:
    name = list(of)[int(rng.integers(len(of)))]
    return name, of[name]


def _archive(kind: str, data: bytes) -> tuple[bytes, str]:
    policy = BulkConfig(members="copy")
    try:
        items = unpack(kind, data, policy)
    except DataError as error:
        return data, type(error).__name__
    released = {item.name: Released(b"new", ".jpg", 1, 1, ()) for item in items}
    packed = pack(kind, data, released, {}, policy, lambda name: f"H{abs(hash(name)):x}")
    assert set(packed.names) == {item.name for item in items}, "a photo is neither released nor withheld"
    return data, "read"


def _within_one(data: bytes, whole: dict[str, bytes], rng: Random) -> tuple[bytes, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [member for member in archive if member.name in whole]
    hit = files[int(rng.integers(len(files)))]
    piece = bytearray(data[hit.offset_data : hit.offset_data + hit.size])
    for _ in range(30):
        piece[int(rng.integers(len(piece)))] = int(rng.integers(256))
    spoilt = data[: hit.offset_data] + bytes(piece) + data[hit.offset_data + hit.size :]
    found = {item.name: item.data for item in unpack("webdataset", spoilt, BulkConfig())}
    assert found == {**whole, hit.name: bytes(piece)}, "a photo of another entry is lost"
    return spoilt, "read"
