"""`verify`: whose release it is, what was changed, and that what a stranger signed does no harm."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.fuzz import seeds

from anonymousnet.cluster.cli import main
from anonymousnet.errors import DataError, StorageError
from anonymousnet.pipelines.manifest import signed, signer_of
from anonymousnet.pipelines.verify import verify


@pytest.fixture
def release(tmp_path: Path) -> Path:
    seeds.release(tmp_path / "release")
    return tmp_path / "release"


def signed_anew(release: Path, **changes: Any) -> None:
    """The statement with some things changed, signed by whoever has a key: everybody."""
    file = release / "manifest.json"
    file.write_bytes(signed({**json.loads(file.read_bytes())["statement"], **changes}, bytes(32)))


def test_a_whole_release_is_whole(release: Path) -> None:
    found = verify(str(release), signer=signer_of(seeds.KEY))
    assert (found.whole, found.expected_signer, found.photos, found.objects) == (True, True, 2, 3)


@pytest.mark.parametrize(
    ("options", "status"),
    [(["--any-signer"], 0), (["--signer", signer_of(seeds.KEY)], 0), ([], 3), (["--signer", "00" * 32], 1),
     (["--any-signer", "--signer", "00"], 2)],
)  # fmt: skip
def test_without_a_signer_the_status_says_so(release: Path, options: list[str], status: int) -> None:
    done = CliRunner().invoke(main, ["verify", str(release), *options])
    assert done.exit_code == status, done.output
    if status == 3:
        assert "not compared: give --signer KEY" in done.output
    (release / "photos/a.jpg").unlink()
    if status != 2:
        assert CliRunner().invoke(main, ["verify", str(release), *options]).exit_code == 1


def test_links_are_extra_whatever_they_lead_to(release: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x.jpg").write_bytes(b"x")
    (release / "folder").symlink_to(tmp_path / "outside")
    (release / "outside.jpg").symlink_to(tmp_path / "outside/x.jpg")
    (release / "inside.jpg").symlink_to("photos/a.jpg")
    (release / "nowhere").symlink_to("nowhere")
    os.mkfifo(release / "pipe")
    found = verify(str(release))
    assert not found.whole
    assert sorted(found.extra) == ["folder", "inside.jpg", "nowhere", "outside.jpg", "pipe"]
    assert found.totals == {"missing": 0, "changed": 0, "extra": 5}


def test_a_link_in_the_place_of_a_photo_is_no_photo(release: Path, tmp_path: Path) -> None:
    (release / "photos/a.jpg").rename(tmp_path / "a.jpg")
    (release / "photos/a.jpg").symlink_to(tmp_path / "a.jpg")
    found = verify(str(release))
    assert (found.extra, found.missing) == (["photos/a.jpg"], ["photos/a.jpg"])


def test_names_that_are_not_utf_8_are_told(release: Path) -> None:
    with open(os.fsencode(release) + b"/photos/\xff.jpg", "wb") as file:
        file.write(b"x")
    done = CliRunner().invoke(main, ["verify", str(release), "--any-signer"])
    assert (done.exit_code, "photos/\\udcff.jpg" in done.output) == (1, True), done.output


@pytest.mark.parametrize(
    "changes",
    [{"files": None}, {"files": ["a"]}, {"files": {"a": 1}}, {"job": 7}, {"counts": {"photos": "many"}},
     {"files": {"../a.parquet": "0"}}, {"files": {"/etc/passwd": "0"}}, {"files": {"a//b": "0"}}],
)  # fmt: skip
def test_what_a_stranger_signed_does_no_harm(release: Path, changes: dict[str, Any]) -> None:
    signed_anew(release, **changes)
    with pytest.raises(DataError, match="trust none of it"):
        verify(str(release))


def test_a_part_that_a_stranger_signed_is_bounded(release: Path) -> None:
    part = release / "manifest/part-00000.parquet"
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), pa.array(["a" * 4_400]))
    for table, words in (
        (pa.table({"object": rows, "object_sha256": rows}), "at most 512 MiB"),
        (pa.table({"object": ["../../x"], "object_sha256": ["0"]}), "leads elsewhere"),
        (pa.table({"object": [None], "object_sha256": ["0"]}, pa.schema([("object", pa.string()),
                  ("object_sha256", pa.string())])), "found one without"),
        (pa.table({"object": ["a"]}), "not readable"),
    ):  # fmt: skip
        pq.write_table(table, part)
        signed_anew(
            release, files={part.relative_to(release).as_posix(): hashlib.sha256(part.read_bytes()).hexdigest()}
        )
        with pytest.raises(DataError, match=words):
            verify(str(release))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[" * 100_000, '{"statement": []}', "\xff"])
def test_no_statement_is_told_in_one_line(release: Path, text: str) -> None:
    (release / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(DataError, match="trust none of it"):
        verify(str(release))


def test_a_file_that_cannot_be_read_is_the_disks_fault(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anonymousnet.pipelines.storage import Folder

    real = Folder.fetch

    def refuse(self: Folder, name: str, version: str | None = None) -> Any:
        if name == "photos/a.jpg":
            raise PermissionError(13, "Permission denied")
        return real(self, name, version)

    monkeypatch.setattr(Folder, "fetch", refuse)
    with pytest.raises(StorageError, match="cannot read 'photos/a.jpg'.*Permission denied"):
        verify(str(release))
