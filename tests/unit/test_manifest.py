"""Bulk jobs without Ray or S3: how a source is cut, what names say, what a signature is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonymousnet.config import Config
from anonymousnet.errors import ConfigError, DataError, StorageError
from anonymousnet.pipelines import bulk_plan
from anonymousnet.pipelines.bulk_places import _places
from anonymousnet.pipelines.bulk_plan import CHUNK, CHUNK_BYTES, Job, chunks_of, cut, survey
from anonymousnet.pipelines.manifest import FORMAT, opened, signed, signer_of
from anonymousnet.pipelines.samples import kind_of
from anonymousnet.pipelines.storage import Entry, Folder
from anonymousnet.privacy.release_key import ReleaseKey, mark_of

KEY = bytes(range(32))


class Listed(Folder):
    """A place with a listing and nothing else."""

    def __init__(self, entries: list[Entry]) -> None:
        super().__init__(Path("somewhere"))
        object.__setattr__(self, "entries", entries)

    def scan(self, after: str = "", below: str = "") -> Any:
        return iter([e for e in self.entries if e.name > after and e.name.startswith(below)])

    def fetch(self, name: str, version: str | None = None) -> Any:
        raise FileNotFoundError(name)


def entries(sizes: list[int], suffixes: str) -> list[Entry]:
    endings = {"p": "jpg", "t": "tar", "o": "txt"}
    return [Entry(f"{i:06}.{endings[s]}", n, f"v{i}") for i, (n, s) in enumerate(zip(sizes, suffixes, strict=False))]


def job(**bulk: str) -> Job:
    config = Config.model_validate({"bulk": bulk})
    place = Folder(Path("somewhere"))
    key = ReleaseKey(Path("somewhere"), mark_of(KEY))
    key._value = KEY
    return Job("id", "run", place, place, place, "photos", config, key, {}, "cpu-float32")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 20 << 20), max_size=300), st.text("ppppppto", min_size=300, max_size=300))
def test_any_segment_can_be_cut_by_itself(sizes: list[int], suffixes: str) -> None:
    listed = entries(sizes, suffixes)
    taken = list(bulk_plan.select(Listed([]), listed, "photos"))
    whole = list(cut(taken))
    assert [e for chunk in whole for e in chunk.entries] == taken
    for chunk in whole:
        assert len(chunk.entries) <= CHUNK
        assert len(chunk.entries) == 1 or sum(e.size for e in chunk.entries) <= CHUNK_BYTES
    if whole:
        found = survey(Listed(listed))
        again = [c for s in found.segments for c in chunks_of(Listed(listed), "photos", s)]
        assert again == whole
        assert (found.objects, found.skipped) == (len(taken), len(listed) - len(taken))


def test_marks_do_not_grow_with_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_plan, "CHUNK", 2)
    monkeypatch.setattr(bulk_plan, "SEGMENT", 2)
    monkeypatch.setattr(bulk_plan, "SEGMENTS", 4)
    listed = Listed(entries([1] * 401, "p" * 401))
    found = survey(listed)
    assert len(found.segments) <= 4
    assert [c.number for s in found.segments for c in chunks_of(listed, "photos", s)] == list(range(201))


def test_a_source_that_changes_under_a_job_ends_it() -> None:
    listed = Listed(entries([1] * 100, "p" * 100))
    segment = survey(listed).segments[0]
    listed.entries[50] = Entry(listed.entries[50].name, 1, "another")
    with pytest.raises(DataError, match="added, removed or changed since the job began"):
        chunks_of(listed, "photos", segment)


def test_what_counts_as_a_photo() -> None:
    kinds = {"a b/ü.JPG": "photo", "../x.png": "photo", "/x.webp": "photo", "x.tar": "webdataset",
             "x.parquet": "parquet",
             "x.txt": None, ".x.jpg": None, ".git/x.jpg": None, "folder/": None, "x": None}  # fmt: skip
    assert {name: kind_of(name) for name in kinds} == kinds


def test_hashed_names_say_nothing_and_kept_ones_lead_nowhere() -> None:
    hidden = job(names="hashed")
    hashed = hidden.released_name("../anna smith.jpg", ".jpg")
    assert hashed.startswith("photos/")
    assert "anna" not in hashed
    assert hashed != hidden.released_name("anna smith.jpg", ".jpg")
    kept = job(names="kept")
    assert kept.released_name("deep/anna smith.JPEG", ".jpg") == "deep/anna smith.JPEG"
    assert kept.released_name("moving.gif", ".png") == "moving.gif.png"
    for name in ("../x.jpg", "/x.jpg", "a//x.jpg"):
        with pytest.raises(StorageError, match="leads elsewhere"):
            kept.released_name(name, ".jpg")
    for name in ("manifest/part-00000.parquet", "release.parquet"):
        with pytest.raises(StorageError, match="of the release's own"):
            kept.released_name(name, ".parquet")
    for name, suffix in ((f"{'n' * 251}.gif", ".png"), (f"{'folder/' * 200}a.jpg", ".jpg")):
        with pytest.raises(StorageError, match="expected a name of up to 255 bytes"):
            kept.released_name(name, suffix)
    for name in ("a\n.jpg", "caf\udce9.jpg"):
        with pytest.raises(StorageError, match="cannot be printed"):
            kept.released_name(name, ".jpg")


def test_a_key_is_never_shown() -> None:
    assert KEY.hex() not in repr(job())
    assert str(KEY) not in repr(job())


def test_a_statement_is_believed_only_as_it_was_signed() -> None:
    data = signed({"format": FORMAT, "counts": {"released": 3}}, KEY)
    assert data == signed({"counts": {"released": 3}, "format": FORMAT}, KEY)
    assert opened(data) == ({"format": FORMAT, "counts": {"released": 3}}, signer_of(KEY))
    whole = json.loads(data)
    whole["statement"]["counts"]["released"] = 4
    with pytest.raises(DataError, match="its signature is wrong"):
        opened(json.dumps(whole).encode())
    whole["public_key"] = signer_of(bytes(32))
    with pytest.raises(DataError, match="its signature is wrong"):
        opened(json.dumps(whole).encode())
    for other in (b"", b"[]", b'{"statement": {}}', data[:-20]):
        with pytest.raises(DataError, match="trust none of it"):
            opened(other)
    with pytest.raises(DataError, match="upgrade"):
        opened(signed({"format": 99}, KEY))


def test_places_must_lie_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lying = [("s3://a/x", "s3://a/x", "s3://b"), ("s3://a", "s3://a/x", "s3://b"),
             ("s3://a/x", "s3://b/y", "s3://b"), (f"{tmp_path}/in", f"{tmp_path}/in/out", None)]  # fmt: skip
    for src, dst, audit in lying:
        with pytest.raises(ConfigError, match="overlap"):
            _places(src, dst, audit, None)
    _places("s3://a/x", "s3://a/xy", "s3://a/z", None)
    assert _places(f"{tmp_path}/in", f"{tmp_path}/out", None, None)[2] == Folder(tmp_path / "out-private")
    with pytest.raises(ConfigError, match="give --audit"):
        _places("s3://a", "s3://b", None, None)
