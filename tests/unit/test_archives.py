"""Archives made to hurt: each is refused by name, in bounded time and memory, and costs nobody else anything."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import resource
import tarfile
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anonymousnet.config import BulkConfig
from anonymousnet.data import archives, parquet, tarball
from anonymousnet.data.archives import check_archive
from anonymousnet.data.tarball import members
from anonymousnet.errors import DataError
from anonymousnet.pipelines.samples import Released, pack, unpack

MIB = 1 << 20


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    return out.getvalue()


def shard(*added: tuple[tarfile.TarInfo | str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for one, data in added:
            header = tarfile.TarInfo(one) if isinstance(one, str) else one
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "0.jpg") -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def header_of(name: str, kind: bytes, size: int) -> bytes:
    """A header by hand, with any size, also below zero."""
    info = tarfile.TarInfo(name)
    info.type = kind
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"%011o\0" % size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


GOOD = shard(("0.jpg", picture()), ("1.jpg", picture()), ("1.txt", b"one"))
END = bytes(1024)
NOISE = gzip.compress(bytes(64 * MIB), 1)


def parquet_of(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def repeated(rows: int, value: bytes) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def listed(rows: int, value: bytes) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), repeated(rows, value))


class TestTars:
    @pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
    def test_plain_and_compressed(self, compress: Callable[[bytes], bytes]) -> None:
        data = compress(GOOD)
        check_archive("webdataset", data)
        assert [one.name for one in members(data)] == ["0.jpg", "1.jpg", "1.txt"]
        assert [item.name for item in unpack("webdataset", data, BulkConfig())] == ["0.jpg", "1.jpg"]

    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
    def test_bombs_are_refused_while_they_are_read(self, compress: Callable[[bytes], bytes]) -> None:
        bomb = compress(shard(("0.jpg", bytes(8 * MIB))))
        assert len(bomb) < 64_000
        with pytest.raises(DataError, match="at most 1 MiB once unpacked, found more; split it"):
            list(members(bomb, MIB))

    def test_a_bomb_of_many_gigabytes(self) -> None:
        """16 GiB behind 16 MiB: nobody holds them, here or there."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match="at most 512 MiB once unpacked"):
            unpack("webdataset", NOISE * 256, BulkConfig())
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"

    def test_links_devices_and_sparse_files_are_named_and_never_read(self) -> None:
        kinds = {
            "l.jpg": tarfile.SYMTYPE,
            "h.jpg": tarfile.LNKTYPE,
            "f.jpg": tarfile.FIFOTYPE,
            "c.jpg": tarfile.CHRTYPE,
        }
        data = shard(("0.jpg", picture()), *((special(name, kind), b"") for name, kind in kinds.items()))
        sparse = header_of("s.jpg", tarfile.GNUTYPE_SPARSE, 0)
        huge = bytearray(sparse)  # claims 4 GiB of zeros
        huge[483:495] = b"%011o\0" % (1 << 32)
        huge[148:156] = b" " * 8
        huge[148:156] = b"%06o\0 " % sum(huge)
        policy, data = BulkConfig(), bytes(huge) + data
        items = unpack("webdataset", data, policy)
        assert [item.name for item in items] == ["0.jpg"]
        packed = pack("webdataset", data, {"0.jpg": Released(b"new", ".jpg", 1, 1, ())}, {}, policy, lambda name: name)
        assert set(packed.left_out) == {*kinds, "s.jpg"}
        assert packed.left_out["l.jpg"].startswith("a link")
        assert packed.left_out["s.jpg"].startswith("a sparse file")

    @pytest.mark.parametrize("name", [
        "/etc/passwd.jpg", "../../0.jpg", "a\udcff\udcfe.jpg", "a\nb.jpg", "x" * 255 + ".jpg", "d/" * 900 + "0.jpg",
    ])  # fmt: skip
    def test_odd_names_are_read_and_never_used(self, name: str) -> None:
        data, policy = shard((name, picture())), BulkConfig(names="hashed")
        (item,) = unpack("webdataset", data, policy)
        packed = pack("webdataset", data, {item.name: Released(b"new", ".jpg", 1, 1, ())}, {}, policy, lambda _: "H")
        assert packed.names == {name: "H.jpg"}

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "found a damaged one"),
            (b"no tar at all" * 100, "found a damaged one"),
            (GOOD[:700], "found a damaged one"),
            (GOOD[: GOOD.index(b"1.jpg") + 100], "expected the end"),
            (GOOD[: GOOD.index(b"1.jpg")], "expected the end of the tar at byte"),
            (GOOD.replace(b"1.jpg\0", b"1.jpX\0"), "expected the end"),
            (GOOD + shard(("2.jpg", picture())), "found more, or less; copy it again"),
            (gzip.compress(GOOD)[:-9], "found a damaged one"),
            (gzip.compress(GOOD)[:60] + b"?" * 9 + gzip.compress(GOOD)[69:], "found a damaged one"),
            (shard(("0.jpg", picture()), ("0.jpg", b"x")), "one name twice"),
            (header_of("0.jpg", tarfile.REGTYPE, -1024) + END, "leads back|damaged"),
            (header_of("0.jpg", tarfile.REGTYPE, 1 << 32) + END, "damaged"),
            ((header_of("x", tarfile.XHDTYPE, 512) + bytes(512)) * 3000 + END, "damaged|found"),
            (shard(("0.jpg", b"x"))[:1024] + header_of("n", tarfile.GNUTYPE_LONGNAME, -512) + END, "expected"),
        ],
    )  # fmt: skip
    def test_damage_is_told_and_nothing_is_lost_silently(self, data: bytes, words: str) -> None:
        started = time.process_time()
        with pytest.raises(DataError, match=words) as caught:
            unpack("webdataset", data, BulkConfig())
        assert "\n" not in str(caught.value)
        assert time.process_time() - started < 10

    def test_members_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tarball, "MOST_MEMBERS", 2)
        with pytest.raises(DataError, match="at most 2 members"):
            list(members(GOOD))

    def test_what_takes_too_long_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A header of digits keeps the reader of some Pythons busy for hours."""
        monkeypatch.setattr(archives, "BOUNDS", archives.sandbox.Bounds(1, 2 << 30))
        digits = b"1" * (4 * MIB)
        data = header_of("x", tarfile.XHDTYPE, len(digits)) + digits + GOOD
        started = time.process_time()
        with contextlib.suppress(DataError):  # others read it in no time
            unpack("webdataset", data, BulkConfig())
        assert time.process_time() - started < 10


class TestTables:
    def test_what_is_counted_is_what_comes_out(self) -> None:
        photo = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({
            "image": pa.array([{"bytes": b"x" * 100, "path": "ab"}, None], photo),
            "dictionary": repeated(2, b"y" * 1000),
            "views": pa.array([[b"z"] * 5, []], pa.list_(pa.binary())),
            "map": pa.array([[("k", b"v")], []], pa.map_(pa.string(), pa.binary())),
            "number": pa.array([1, 2], pa.int64()),
        })  # fmt: skip
        size, values = map(sum, zip(*(parquet.extent(one.combine_chunks()) for one in table.columns), strict=True))
        assert 2_100 < size < 2_400
        assert values == (2 + 2 + 2) + 2 + (2 + 5) + (2 + 1 + 1) + 2
        part = table["map"].combine_chunks().slice(1)
        assert parquet.extent(part)[1] == 1, "of a slice, what is in it"

    @pytest.mark.parametrize("make", [repeated, listed])
    def test_bombs_are_refused_while_they_are_read(self, make: Callable[[int, bytes], pa.Array]) -> None:
        bomb = parquet_of(pa.table({"image": make(1_000_000, b"\xff\xd8\xff" + bytes(4_400))}))
        assert len(bomb) < 4_000, "4.4 GB"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match="at most 512 MiB once read, found more|more than 2048 MiB") as caught:
            unpack("parquet", bomb, BulkConfig())
        assert "split it" in str(caught.value)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"

    def test_values_are_counted_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet, "MOST_VALUES", 1_000)
        data = parquet_of(pa.table({"image": [picture()], "flags": pa.array([[True] * 2_000])}))
        with pytest.raises(DataError, match="at most 1000 values"):
            parquet.answer(io.BytesIO(data), MIB)

    @pytest.mark.parametrize("spoil", [
        lambda data: b"", lambda data: data[:-5], lambda data: data[:4] + data[-8:], lambda data: b"PAR1" * 4,
        lambda data: data[:20] + bytes(60) + data[80:], lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    ])  # fmt: skip
    def test_damage_is_told(self, spoil: Callable[[bytes], bytes]) -> None:
        data = spoil(parquet_of(pa.table({"image": [picture()] * 9, "label": list(range(9))})))
        with pytest.raises(DataError, match="expected a [Pp]arquet file") as caught:
            unpack("parquet", data, BulkConfig())
        assert "\n" not in str(caught.value)

    def test_odd_types_are_one_error(self) -> None:
        deep: pa.DataType = pa.binary()
        for _ in range(60):
            deep = pa.struct([("a", deep)])
        data = parquet_of(pa.table({"image": pa.array([None], deep)}))
        items = unpack("parquet", data, BulkConfig(image_column="image"))
        assert [item.data for item in items] == [b""]
