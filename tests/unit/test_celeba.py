"""CelebA's official layout, whole, partial and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anonymousnet.align.region import FACE, HEAD
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.celeba import CelebA, read_attributes
from anonymousnet.errors import AttributeTableError, StorageError
from anonymousnet.pipelines.bulk_plan import survey
from anonymousnet.pipelines.source import read_source
from anonymousnet.pipelines.storage import Folder


def test_rows_whose_image_is_missing_are_left_out(small_celeba: Path) -> None:
    found = CelebA.open(small_celeba)
    assert len(found) == 12
    assert found.names[0] == "000001.jpg"
    assert found.attributes.shape == (12, 40)
    assert found.attributes.dtype == bool


def test_partitions_are_disjoint_and_complete(small_celeba: Path) -> None:
    found = CelebA.open(small_celeba)
    parts = [found.part(p) for p in ("train", "validation", "test")]
    assert sorted(n for part in parts for n in part.names) == sorted(found.names)
    assert [len(p) for p in parts] == [6, 3, 3]


def test_labels_follow_their_image(small_celeba: Path) -> None:
    found = CelebA.open(small_celeba)
    names, table = read_attributes(small_celeba / "list_attr_celeba.txt")
    taken = found.take(np.array([5, 2]))
    for name, row, identity in zip(taken.names, taken.attributes, taken.identities, strict=True):
        assert (row == table[names.index(name)]).all()
        assert identity >= 100


def test_faces_are_the_centre_crop_resized(small_celeba: Path) -> None:
    faces = CelebA.open(small_celeba).faces(64)
    assert faces.shape == (12, 3, 64, 64)
    assert faces.dtype == np.uint8
    assert faces.std() > 10


def test_39_attributes_are_refused_with_both_counts(small_celeba: Path) -> None:
    path = small_celeba / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace(" Young", "", 1))
    with pytest.raises(AttributeTableError, match="expected 40 attributes, got 39; check the header"):
        CelebA.open(small_celeba)


def test_attributes_in_another_order_are_refused(small_celeba: Path) -> None:
    path = small_celeba / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Bald Bangs", "Bangs Bald", 1))
    with pytest.raises(AttributeTableError, match="expected attribute 5 to be Bald, got Bangs"):
        CelebA.open(small_celeba)


def test_a_bad_row_is_named_by_its_line(small_celeba: Path) -> None:
    path = small_celeba / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace("1", "7", 3)
    path.write_text("\n".join(lines))
    with pytest.raises(AttributeTableError, match="line 5"):
        CelebA.open(small_celeba)


@pytest.mark.parametrize("missing", ["img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_missing_part_is_named(small_celeba: Path, missing: str) -> None:
    (small_celeba / missing).rename(small_celeba / "elsewhere")
    with pytest.raises(StorageError, match=missing):
        CelebA.open(small_celeba)


def test_no_identity_list_is_no_error(small_celeba: Path) -> None:
    (small_celeba / "identity_CelebA.txt").unlink()
    assert (CelebA.open(small_celeba).identities == -1).all()


def test_inside_and_outside_make_up_the_forty() -> None:
    assert len(ATTRIBUTES) == 40
    for region in (FACE, HEAD):
        assert set(region.inside) | region.outside == set(ATTRIBUTES)
        assert not set(region.inside) & region.outside
    assert HEAD.outside < FACE.outside


@pytest.mark.celeba
def test_the_real_subset(celeba: Path) -> None:
    found = CelebA.open(celeba)
    assert [len(found.part(p)) for p in ("train", "validation", "test")] == [28800, 1500, 1500]
    train, test = found.part("train"), found.part("test")
    assert not set(train.identities) & set(test.identities)
    assert abs(found.attributes[:, ATTRIBUTES.index("Male")].mean() - 0.48) < 0.02


def as_kaggle_has_it(folder: Path) -> None:
    """CSV lists with a line of names, one folder more, no identities."""
    (folder / "img_align_celeba").rename(folder / "images")
    (folder / "img_align_celeba").mkdir()
    (folder / "images").rename(folder / "img_align_celeba/img_align_celeba")
    (folder / "identity_CelebA.txt").unlink()
    for name, header in (
        ("list_attr_celeba", ("image_id", *ATTRIBUTES)),
        ("list_eval_partition", ("image_id", "partition")),
    ):
        lines = (folder / f"{name}.txt").read_text().splitlines()
        rows = [",".join(line.split()) for line in (lines[2:] if "attr" in name else lines)]
        (folder / f"{name}.csv").write_text("\r\n".join([",".join(header), *rows, ""]), "utf-8-sig")
        (folder / f"{name}.txt").unlink()


def test_kaggles_layout_is_read_alike(small_celeba: Path) -> None:
    official, faces = CelebA.open(small_celeba), CelebA.open(small_celeba).faces(32)
    before = read_source(Folder(small_celeba))
    as_kaggle_has_it(small_celeba)
    found, after = CelebA.open(small_celeba), read_source(Folder(small_celeba))
    assert found.names == official.names
    assert (found.attributes == official.attributes).all()
    assert (found.partitions == official.partitions).all()
    assert (found.faces(32) == faces).all()
    assert (after.layout, after.below, after.labels.names) == ("celeba", "img_align_celeba/" * 2, before.labels.names)
    assert after.labels.listed.all()
    assert (after.labels.attributes == before.labels.attributes).all()
    assert (after.partitions == before.partitions).all()
    assert after.place.read(after.below + after.labels.names[0]).startswith(b"\xff\xd8")


def test_mistakes_in_kaggles_lists_are_named(small_celeba: Path) -> None:
    as_kaggle_has_it(small_celeba)
    path = small_celeba / "list_attr_celeba.csv"
    text = path.read_text("utf-8-sig")
    for wrong, words in (
        (text.replace(",Young", "", 1), "got 39; check the header .line 1."),
        (text.replace("000002.jpg,1", "000002.jpg,7").replace("000002.jpg,-1", "000002.jpg,7"), "line 3 of"),
        (text.replace("Bald,Bangs", "Bangs,Bald"), "expected attribute 5 to be Bald, got Bangs; check line 1"),
    ):
        path.write_text(wrong)
        with pytest.raises(AttributeTableError, match=words):
            CelebA.open(small_celeba)
    path.write_text(text)
    (small_celeba / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,x\n")
    with pytest.raises(AttributeTableError, match="line 2"):
        read_source(Folder(small_celeba))


def test_a_bulk_job_knows_kaggles_layout(small_celeba: Path) -> None:
    as_kaggle_has_it(small_celeba)
    found = survey(Folder(small_celeba))
    assert (found.layout, found.objects) == ("celeba", 12)
