import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from anonymousnet.data.store import private_folder, write_atomic
from anonymousnet.errors import PrivacyError, StorageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_name_of_255_characters(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".jpg")
    write_atomic(path, b"data")
    assert path.read_bytes() == b"data"


def test_mode_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_disk_full_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "report.json"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, b"new")
    message = str(caught.value)
    assert str(path) in message
    assert "No space left" in message
    assert "3 bytes free" in message
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", b"data")
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "er" / "photo.png", b"x")
    assert (tmp_path / "deep" / "er" / "photo.png").read_bytes() == b"x"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(tmp_path / "file" / "photo.png", b"x")


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path, wanted, stop = tmp_path / "a", {b"a" * 200_000, b"b" * 200_000}, threading.Event()
    write_atomic(path, min(wanted))
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for data in sorted(wanted) * 15:
        write_atomic(path, data)
    stop.set()
    reader.join()
    assert seen <= wanted


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_private_folders_and_files_are_for_their_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    folder, before = tmp_path / "b", os.umask(umask)
    try:
        assert private_folder(folder) == folder == private_folder(folder)
        write_atomic(folder / "deep" / "er" / "file", b"x", private=True)
        assert not write_atomic(folder / "deep" / "er" / "file", b"y", replace=False, private=True)
    finally:
        os.umask(before)
    assert [mode(path) for path in (folder, folder / "deep", folder / "deep" / "er")] == [0o700] * 3
    assert mode(folder / "deep" / "er" / "file") == 0o600


def test_a_private_folder_open_to_others_is_refused_with_its_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    with pytest.raises(PrivacyError, match=r"expected mode 0700, got 0755.*chmod 700"):
        private_folder(folder)
    folder.chmod(0o700)
    assert private_folder(folder) == folder


def test_a_disk_that_keeps_no_modes_holds_no_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchmod", lambda handle, _: os.chmod(handle, 0o777))
    with pytest.raises(PrivacyError, match=r"expected mode 0600, got 0777.*keeps modes"):
        write_atomic(tmp_path / "a", b"x", private=True)
    assert not list(tmp_path.iterdir())


def test_private_folder_expands_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert private_folder(Path("~/keys")) == tmp_path / "keys"


def test_private_folder_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="choose a folder"):
        private_folder(tmp_path / "file")
