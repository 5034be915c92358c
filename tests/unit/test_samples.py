"""Archives: no picture of the source goes along, wherever it stands and whatever it is called."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anonymousnet.config import BulkConfig
from anonymousnet.errors import DataError, StorageError
from anonymousnet.pipelines.samples import Item, Packed, Released, check_kept, pack, unpack

FACELESS = ("NoFaceFound", "no face was found")


def picture(seed: int, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8)).save(out, kind)
    return out.getvalue()


PHOTOS = [picture(seed, kind) for seed, kind in enumerate(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])]
FACE, MASK = PHOTOS[0], PHOTOS[1]


def shard(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def parquet(columns: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def through(
    kind: str, data: bytes, faceless: tuple[bytes, ...] = (), lost: tuple[bytes, ...] = (), **policy: Any
) -> Packed:
    """An archive with every picture in it released as other bytes, but for those in which nothing is found."""
    settings, released, withheld = BulkConfig(**policy), {}, {}
    for i, item in enumerate(unpack(kind, data, settings)):
        if item.data in faceless:
            withheld[item.name] = FACELESS
        elif item.data in lost or not item.data:
            withheld[item.name] = ("TruncatedImage", "cut")
        else:
            released[item.name] = Released(b"RELEASED %d" % i, ".jpg", 1, 1, ())
    rename = (lambda name: name) if settings.names == "kept" else (lambda name: f"H{hash(name) & 0xFFFF:x}")
    packed = pack(kind, data, released, withheld, settings, rename)
    for photo in PHOTOS:
        for form in (photo, base64.b64encode(photo)[:80], photo.hex().encode()[:80]):
            assert form not in packed.data
    assert packed.names.keys() <= released.keys()
    return packed


def members(packed: Packed) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def table(packed: Packed) -> pa.Table:
    return pq.read_table(io.BytesIO(packed.data))


ODD = {
    "0.jpg": FACE, "0.seg.png": MASK, "0.cls": PHOTOS[2], "0": PHOTOS[3], "0.thumb": PHOTOS[5], "0.txt": b"a caption",
    "0.npy": b"\x93NUMPY\0", "0.json": json.dumps({"image": base64.b64encode(PHOTOS[4]).decode()}).encode(),
    "0.svg": b"<svg><image href='x'/></svg>", "0.weird.anna_smith": b"hello",
}  # fmt: skip


class TestTars:
    def test_pictures_are_known_by_their_bytes(self) -> None:
        packed = through("webdataset", shard(ODD), (MASK,), members="copy", names="hashed")
        found = members(packed)
        assert len(packed.names) == 4  # the photo, and three that are no photos by name
        key = packed.names["0.jpg"].split(".")[0]
        assert set(found) == {
            f"{key}.jpg", f"{key}.2.jpg", f"{key}.3.jpg", f"{key}.4.jpg",
            *(f"{name}.json" for name in packed.names.values()), f"{key}.txt", f"{key}.2.txt",
        }  # fmt: skip
        assert set(packed.left_out) == {"0.seg.png", "0.npy", "0.json", "0.svg"}
        assert packed.left_out["0.seg.png"] == FACELESS[1]
        assert b"anna" not in packed.data

    def test_a_mask_costs_its_photo_nothing_and_is_told(self) -> None:
        for members_ in ("drop", "copy"):
            packed = through("webdataset", shard({"0.jpg": FACE, "0.seg.png": MASK}), (MASK,), members=members_)
            assert (set(packed.names), set(packed.left_out)) == ({"0.jpg"}, {"0.seg.png"})
        for names in (("0.image.jpg", "0.mask.png"), ("0.jpg", "0.png"), ("a/0.jpg", "a/0.depth.tif")):
            packed = through("webdataset", shard(dict(zip(names, (FACE, MASK), strict=True))), (MASK,))
            assert (set(packed.names), set(packed.left_out)) == ({names[0]}, {names[1]})

    def test_members_without_a_suffix_are_known_by_their_bytes(self) -> None:
        packed = through("webdataset", shard({"0": FACE, "1": b"no picture", "a/2": MASK, "3.jpg": FACE, "3": MASK}))
        assert set(packed.names) == {"0", "a/2", "3.jpg"}
        assert packed.left_out == dict.fromkeys(("1", "3"), "bulk.members=drop")

    def test_a_photo_that_is_lost_takes_its_sample_along(self) -> None:
        data = shard({"0.jpg": FACE, "0.seg.png": MASK, "0.txt": b"anna", "1.jpg": PHOTOS[2], "1.txt": b"one"})
        packed = through("webdataset", data, (FACE,), members="copy")
        assert set(packed.names) == {"1.jpg"}
        assert b"anna" not in packed.data
        packed = through("webdataset", data, (), (MASK,), members="copy")
        assert set(packed.names) == {"0.jpg", "1.jpg"}, "what stands beside the photo is lost alone"
        both = shard({"0.left.jpg": FACE, "0.right.jpg": MASK})
        assert not through("webdataset", both, (), (MASK,)).names

    def test_hashed_names_keep_the_photos_suffix_alone(self) -> None:
        people = {"x.anna_smith.jpg": FACE, "x.bob.PNG": MASK, "anna.jpg": PHOTOS[2]}
        packed = through("webdataset", shard(people), names="hashed")
        assert sorted(name.split(".", 1)[1] for name in packed.names.values()) == ["2.jpg", "jpg", "jpg"]
        for word in (b"anna", b"smith", b"bob", b"PNG"):
            assert word not in packed.data

    def test_kept_names_are_kept_and_checked(self) -> None:
        packed = through("webdataset", shard({"./a/0.jpg": FACE, "a/1.cls": MASK}), names="kept", members="copy")
        assert set(members(packed)) == {"a/0.jpg", "a/0.jpg.json", "a/1.cls.jpg", "a/1.cls.jpg.json"}
        for name in ("../x.jpg", "/x.jpg", "a//x.jpg", "a/../../x.jpg", "a\n.jpg", "a\udcff.jpg", ""):
            with pytest.raises(StorageError, match="cannot be kept"):
                check_kept(name)
        packed = through("webdataset", shard({"0.jpg": FACE, "../0.txt": b"out"}), names="kept", members="copy")
        assert set(members(packed)) == {"0.jpg", "0.jpg.json"}
        assert set(packed.left_out) == {"../0.txt"}

    def test_two_members_of_one_name_are_refused(self) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for data in (FACE, MASK):
                member = tarfile.TarInfo("0.jpg")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        with pytest.raises(DataError, match="one name twice"):
            unpack("webdataset", out.getvalue(), BulkConfig())


HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class TestTables:
    def test_every_column_list_and_struct(self) -> None:
        def struct(photo: bytes) -> dict[str, Any]:
            return {"bytes": photo, "path": "anna_smith.jpg"}

        data = parquet({
            "image": pa.array([struct(FACE), None], HF),
            "image2": pa.array([struct(PHOTOS[1]), struct(PHOTOS[1])], HF),
            "thumbnail": pa.array([PHOTOS[2], PHOTOS[2]], pa.binary()),
            "views": pa.array([[struct(PHOTOS[3]), struct(PHOTOS[4])], []], pa.list_(HF)),
            "large": pa.array([PHOTOS[5], None], pa.large_binary()),
            "fixed": pa.array([PHOTOS[1], PHOTOS[1]], pa.binary(len(PHOTOS[1]))),
            "dictionary": pa.array([PHOTOS[2], PHOTOS[2]]).dictionary_encode(),
            "map": pa.array([[("a", PHOTOS[3])], []], pa.map_(pa.string(), pa.binary())),
            "deep": pa.array([{"a": [{"b": [PHOTOS[4]]}]}, None]),
            "mixed": pa.array([b"an embedding", PHOTOS[4]]),
            "text64": pa.array([base64.b64encode(PHOTOS[0]).decode(), "b"]),
            "pixels": pa.array([list(range(300)), [1]]),
            "file_name": pa.array(["anna_smith.jpg", "anna_smith.png"]),
            "caption": pa.array(["two people", "one"]),
            "label": pa.array([7, 8]),
            "box": pa.array([[1.5, 2, 3, 4], [0]]),
        })  # fmt: skip
        packed = through("parquet", data, members="copy")
        new = table(packed)
        assert len(new) == 1, "a row without its photo stays behind"
        row = new.to_pylist()[0]
        assert new.schema.field("image").type == HF
        assert row["image"] == {"bytes": b"RELEASED 0", "path": f"{row['name']}.jpg"}
        assert row["image2"]["path"] == f"{row['name']}.2.jpg"
        assert row["views"][1]["bytes"].startswith(b"RELEASED")
        for name in ("thumbnail", "large", "fixed", "dictionary"):
            assert row[name].startswith(b"RELEASED"), name
        assert row["map"][0][1].startswith(b"RELEASED")
        assert row["deep"]["a"][0]["b"][0].startswith(b"RELEASED")
        assert (row["caption"], row["label"], row["box"]) == ("two people", 7, [1.5, 2, 3, 4])
        assert not {"mixed", "text64", "pixels", "file_name"} & set(new.column_names)
        assert {"mixed", "text64", "pixels", "file_name"} <= set(packed.left_out)
        assert len(packed.names) == 10
        assert len(set(packed.names.values())) == 10
        assert b"anna" not in packed.data

    @pytest.mark.parametrize("kind", [
        pa.binary(), pa.large_binary(), pa.binary_view(), HF, pa.list_(pa.binary()), pa.list_(HF),
        pa.dictionary(pa.int32(), pa.binary()), pa.binary(len(FACE)),
    ], ids=str)  # fmt: skip
    def test_the_photos_themselves_in_any_type(self, kind: Any) -> None:
        plain: Any = {"bytes": FACE, "path": "anna.jpg"} if "struct" in str(kind) else FACE
        if pa.types.is_dictionary(kind):
            values = pa.array([FACE]).dictionary_encode()
        else:
            values = pa.array([[plain] if pa.types.is_list(kind) else plain], kind)
        data = parquet({"portrait": values})
        new = table(through("parquet", data))
        assert len(new) == 1
        assert b"RELEASED" in str(new["portrait"].to_pylist()).encode()
        assert b"anna" not in through("parquet", data).data

    def test_what_shows_no_face_is_left_out_alone(self) -> None:
        data = parquet({"image": [FACE, MASK], "mask": [MASK, FACE], "extra": [b"\0", b"\1"]})
        packed = through("parquet", data, (MASK,), members="copy")
        assert table(packed).column_names == ["image", "name", "faces"]
        assert set(packed.left_out) == {"mask", "0/mask", "extra"}

    def test_no_path_is_opened(self, tmp_path: Path) -> None:
        photo = tmp_path / "local.jpg"
        photo.write_bytes(FACE)
        for rows in (
            pa.array([{"bytes": str(photo), "path": str(photo)}]),  # a struct of Hugging Face's form, of texts
            pa.array([str(photo)]),
        ):
            with pytest.raises(DataError, match="a path is never opened"):
                unpack("parquet", parquet({"image": rows}), BulkConfig())
            with pytest.raises(DataError, match="a path is never opened"):
                unpack("parquet", parquet({"image": rows}), BulkConfig(image_column="image"))
        nothing = parquet({"image": pa.array([{"bytes": None, "path": str(photo)}, {"bytes": FACE, "path": "x"}], HF)})
        assert [item.data for item in unpack("parquet", nothing, BulkConfig())] == [b"", FACE]
        with pytest.raises(DataError, match="a path is never opened"):
            Item("0", str(photo))  # type: ignore[arg-type]

    def test_what_cannot_be_used_is_named(self) -> None:
        with pytest.raises(DataError, match=r"expected a column of photos.*number \(int64\)"):
            unpack("parquet", parquet({"number": [1]}), BulkConfig())
        with pytest.raises(DataError, match=r"expected a column of photos \(photo\).*image \(binary\)"):
            unpack("parquet", parquet({"image": [FACE]}), BulkConfig(image_column="photo"))
        many = {"image": [FACE], **{f"pixel{i}": [i] for i in range(300)}}
        packed = through("parquet", parquet(many), members="copy")
        assert table(packed).column_names == ["image", "name", "faces"]
        assert len(packed.left_out) == 300

    def test_in_drop_mode_the_photos_go_alone(self) -> None:
        wide = pa.struct([("bytes", pa.binary()), ("path", pa.string()), ("caption", pa.string())])
        rows = pa.array([{"bytes": FACE, "path": "anna.jpg", "caption": "anna"}], wide)
        packed = through("parquet", parquet({"image": rows, "thumbnail": [MASK], "caption": ["anna"]}))
        assert table(packed).column_names == ["image", "name", "faces"]
        assert set(packed.left_out) == {"thumbnail", "caption"}
        assert b"anna" not in packed.data
