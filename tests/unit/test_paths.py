"""What a user types becomes the same path everywhere; disks without hard links are disks too."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from anonymousnet.config import Config
from anonymousnet.data.paths import beside, resolve_path
from anonymousnet.data.store import write_atomic
from anonymousnet.errors import ConfigError, PrivacyError

NOLINK = """
#include <errno.h>
int link(const char*a,const char*b){errno=EPERM;return -1;}
int linkat(int a,const char*b,int c,const char*d,int e){errno=EPERM;return -1;}
"""
"""As on exFAT, FAT, SMB without Unix extensions, gcsfuse."""
MANY = """
import sys
from pathlib import Path
from anonymousnet.pipelines.storage import Folder
from anonymousnet.privacy.ledger import Ledger
from anonymousnet.privacy.randomness import load_key
folder = Path(sys.argv[1])
key = load_key(folder / "key")
with Ledger(folder / "ledger", key=key) as ledger:
    ledger.spend(b"anna", sys.argv[2].encode(), "may", {"hair": 1.0})
print(key.hex(), Folder(folder).create("one", sys.argv[2].encode()))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_every_way_of_writing_a_path(home: Path) -> None:
    work = Path.cwd()
    assert resolve_path("~/x") == home / "x"
    assert resolve_path(Path("~")) == home
    assert resolve_path(".") == work
    assert resolve_path("x") == resolve_path("./x") == work / "x"
    assert resolve_path("../photos/") == work.parent / "photos"
    assert resolve_path("./~x") == work / "~x"
    assert resolve_path("/x") == Path("/x")
    assert beside(resolve_path("."), "-private") == work.parent / "work-private"


@pytest.mark.parametrize("text", ["", "a\0b", "~nobody-of-that-name/x", "s3://bucket/x", Path("s3://bucket/x")])
def test_what_is_no_path_is_told(text: str | Path) -> None:
    with pytest.raises(ConfigError, match="expected a path|no home folder|got an address"):
        resolve_path(text)


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="cannot follow"):
        resolve_path("x")


@pytest.mark.parametrize("value", ["", "relative"])
def test_an_empty_home_is_no_home(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", value)
    with pytest.raises(ConfigError, match="set HOME"):
        resolve_path("~/x")


def test_settings_are_absolute_but_for_the_home_of_each_machine(home: Path) -> None:
    config = Config.load(None, ["release.ledger=books/ledger", "release.key_file=~/key", "serve.keys=./k"])
    assert config.release.ledger == Path.cwd() / "books" / "ledger"
    assert config.serve.keys == Path.cwd() / "k"
    assert str(config.release.key_file) == "~/key"
    with pytest.raises(ConfigError, match=r"release.subjects: expected a path"):
        Config.load(None, ["release.subjects=''"])


def test_the_config_file_and_weights_may_lie_at_home(home: Path) -> None:
    home.mkdir()
    (home / "my.yaml").write_text("seed: 7\n")
    assert Config.load("~/my.yaml").seed == 7


def test_without_a_home_the_command_line_says_so_in_one_line() -> None:
    """An unknown user without HOME, as in a container with a user id of its own."""
    code = (
        "import os, sys\nos.getuid = lambda: 4242424\n"
        "from anonymousnet.cluster.cli import main\nsys.argv[0] = 'anonymousnet'\nmain()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run([sys.executable, "-c", code, "keys", "list"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ~/.anonymousnet/keys.json: no home folder is known")


def test_the_command_line_reads_them_alike(home: Path) -> None:
    from anonymousnet.cluster.cli import main

    done = CliRunner().invoke(main, ["keys", "new", "acme", "--keys", "~/deep/keys.json"])
    assert done.exit_code == 0, done.output
    assert (home / "deep" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (home / "deep").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("key", [b"", b"short", bytes(33), "x" * 32])
def test_keys_given_in_python_are_checked_as_files_are(key: bytes) -> None:
    from anonymousnet import Anonymizer

    with pytest.raises(PrivacyError, match="expected 32 secret bytes"):
        Anonymizer.load(key=key)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_links_of_many_writers_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:  # fmt: skip
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: write_atomic(tmp_path / "one", bytes([i]) * 9, replace=False), range(32)))
    assert sum(won) == 1
    assert (tmp_path / "one").read_bytes() == bytes([won.index(True)]) * 9
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_other_refusals_of_a_link_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(Exception, match="No space left"):
        write_atomic(tmp_path / "one", b"x", replace=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_without_links_keys_ledgers_and_files_are_made_once(tmp_path: Path) -> None:
    (tmp_path / "nolink.c").write_text(NOLINK)
    library, folder = tmp_path / "nolink.so", tmp_path / "disk"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nolink.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    folder.mkdir(mode=0o700)
    made = [
        subprocess.Popen([sys.executable, "-c", MANY, folder, str(i)], env=environment, stdout=subprocess.PIPE)
        for i in range(3)
    ]
    said = [process.communicate()[0].decode().split() for process in made]
    assert len({key for key, _ in said}) == 1
    assert sorted(won for _, won in said) == ["False", "False", "True"]
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["key", "ledger", "one"]
    assert not [path for path in folder.iterdir() if path.is_dir() and any(path.iterdir())]
    assert {path.stat().st_mode & 0o777 for path in (folder / "key", folder / "ledger")} == {0o600}
