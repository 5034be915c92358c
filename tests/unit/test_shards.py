"""The data set of preprocessed faces: what is written is read back, and damage is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from anonymousnet.data import shards as store
from anonymousnet.errors import DataError, StorageError

JOB = "a" * 64
PX = 16


def row(i: int, labelled: bool = True) -> dict[str, Any]:
    """A face of one flat colour, recognisable by its identity."""
    sink = io.BytesIO()
    Image.new("RGB", (PX, PX), (i % 256, 100, 50)).save(sink, "JPEG", quality=95, subsampling=0)
    return {
        "name": f"{i:06}.jpg", "face": 0, "image": sink.getvalue(), "identity": i, "score": 0.9, "sharpness": 1.0,
        "attributes": [(i + j) % 2 == 0 for j in range(40)] if labelled else None,
        "landmarks": [float(j % 16) for j in range(136)] if labelled else None, "points": [1.0] * 10, "size": 178.0,
    }  # fmt: skip


def write(root: Path, counts: tuple[int, ...], **kinds: Any) -> Path:
    """A data set of one split, with that many faces in each shard."""
    summaries, start = [], 0
    for k, count in enumerate(counts):
        rows = [row(i, **kinds) for i in range(start, start + count)]
        data, file = store.shard_parquet(rows, JOB, count, []), f"train/part-{k:05}.parquet"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)
        summaries.append(store.summarize(data, file, JOB))
        start += count
    (root / "card.json").write_text(json.dumps(store.make_card(JOB, "photos", "photos", PX, {}, summaries)))
    return root


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    shards = store.open_shards(write(tmp_path, (5, 600)), "train")
    assert (len(shards), shards.rows, shards.face_px) == (605, (5, 600), PX)
    assert np.array_equal(shards.identities(), np.arange(605))
    faces = store.decode(store.read_rows(shards, 0, None), PX)
    assert np.abs(faces.faces_N3HW[3].mean((1, 2)) - (3, 100, 50)).max() < 3
    assert np.array_equal(faces.attributes_N40[3], row(3)["attributes"])
    assert faces.landmarks_N682 is not None
    assert np.array_equal(faces.landmarks_N682[0].ravel(), row(0)["landmarks"])


def test_rows_come_in_the_order_asked_for_across_row_groups(tmp_path: Path) -> None:
    shards = store.open_shards(write(tmp_path, (600,)), "train")
    rows = np.array([599, 2, 300, 2, 513, 255, 256])
    assert np.array_equal(store.read_rows(shards, 0, rows)["identity"].to_numpy(), rows)
    assert len(store.read_rows(shards, 0, rows[:0])) == 0


def test_landmarks_follow_the_size_that_faces_are_decoded_to(tmp_path: Path) -> None:
    table = store.read_rows(store.open_shards(write(tmp_path, (3,)), "train"), 0, None)
    small, large = store.decode(table, PX), store.decode(table, 2 * PX)
    assert large.faces_N3HW.shape == (3, 3, 2 * PX, 2 * PX)
    assert small.landmarks_N682 is not None
    assert large.landmarks_N682 is not None
    assert np.allclose(large.landmarks_N682, 2 * small.landmarks_N682)
    assert large.landmarks_N682.dtype == np.float32


def test_faces_without_attributes_are_refused_and_without_landmarks_have_none(tmp_path: Path) -> None:
    table = store.read_rows(store.open_shards(write(tmp_path, (3,), labelled=False), "train"), 0, None)
    with pytest.raises(DataError, match="expected attributes with every face, 3 of 3 have none"):
        store.decode(table, PX)
    rows = [{**row(i), "landmarks": None if i == 1 else row(i)["landmarks"]} for i in range(3)]
    assert store.decode(pa.Table.from_pylist(rows, store.FACES), PX).landmarks_N682 is None


def test_same_rows_same_bytes() -> None:
    first, second = (store.shard_parquet([row(i) for i in range(300)], JOB, 300, []) for _ in range(2))
    assert first == second


def test_card_counts_photos_faces_and_errors() -> None:
    error = {"name": "x.jpg", "kind": "EmptyImage", "reason": "0 bytes"}
    shards = [
        store.summarize(store.shard_parquet([row(1), row(2)], JOB, 3, [error]), "train/part-00000.parquet", JOB),
        store.summarize(store.shard_parquet([row(3)], JOB, 2, [error]), "test/part-00000.parquet", JOB),
    ]
    card = store.make_card(JOB, "here", "celeba", PX, {"shards": 2}, shards)
    assert card["counts"] == {"photos": 5, "faces": 3, "errors": {"EmptyImage": 2}}
    assert [len(files) for files in card["splits"].values()] == [1, 0, 1]
    assert card["content_sha256"] != store.make_card(JOB, "", "celeba", PX, {}, shards[::-1])["content_sha256"]
    page = store.card_page(card)
    assert "non-commercial research only" in page
    assert "2 EmptyImage" in page


def test_shards_of_another_job_are_refused() -> None:
    with pytest.raises(DataError, match="expected a shard of job bbbb.*found aaaa.*choose another DST"):
        store.summarize(store.shard_parquet([row(1)], JOB, 1, []), "train/part-00000.parquet", "b" * 64)


def test_damage_is_named_with_its_remedy(tmp_path: Path) -> None:
    shards = store.open_shards(write(tmp_path, (600,)), "train")
    path = tmp_path / "train" / "part-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
    with pytest.raises(DataError, match=r"train/part-00000.parquet is damaged.*delete it"):
        store.read_rows(shards, 0, None)
    path.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"train/part-00000.parquet is damaged"):
        shards.identities()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert not store.is_dataset(tmp_path)
    with pytest.raises(StorageError, match="no such file: .*card.json"):
        store.open_shards(tmp_path, "train")
    assert store.is_dataset(write(tmp_path, (2,)))
    with pytest.raises(DataError, match="expected faces of split 'test'"):
        store.open_shards(tmp_path, "test")
    (tmp_path / "train" / "part-00000.parquet").unlink()
    with pytest.raises(StorageError, match=r"no such file: .*part-00000.parquet"):
        store.open_shards(tmp_path, "train")
    (tmp_path / "card.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="expected a dataset card of format 1, found format 99"):
        store.open_shards(tmp_path, "train")
