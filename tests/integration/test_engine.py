"""One kind of job: killed and gone on with to the same bytes, by this process or by Ray; whose fault a fault is."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.records import lines, quarantine

from anonymousnet import faults, protect
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.cluster.cli import main
from anonymousnet.config import Config
from anonymousnet.data.synthetic import render_page
from anonymousnet.errors import ClusterError, MachineError
from anonymousnet.pipelines import bulk_plan, jobs
from anonymousnet.pipelines.bulk import anonymize
from anonymousnet.pipelines.disk import DRAFTS
from anonymousnet.pipelines.jobs import held
from anonymousnet.pipelines.storage import storage_of

PHOTOS = 20
DIES = """
import os, signal
from anonymousnet import anonymizer
load = anonymizer.load_photo
def load_photo(data, *more):
    if data.endswith(b"DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    return load(data, *more)
anonymizer.load_photo = load_photo
"""
"""A sitecustomize.py: a photo that ends so kills whoever decodes it."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    face = render_page(3, faces=1, width=200)[0]
    for i in range(PHOTOS):
        Image.fromarray(np.roll(face, i, 1)).save(folder / f"{i:02}.jpg", quality=92)
    return folder


@pytest.fixture(scope="module")
def settings(small_weights: list[str]) -> list[str]:
    return [*small_weights, "precision=fp32"]


def words(src: Path, dst: Path, settings: list[str], *more: str) -> list[str]:
    sets = [word for setting in settings for word in ("--set", setting)]
    return ["anonymize", str(src), str(dst), *more, *sets, "--set", f"release.ledger={dst}.ledger"]


def run(*command: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(command), catch_exceptions=False)
    return done.exit_code, done.output.strip()


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def spent(dst: Path) -> int:
    with sqlite3.connect(f"{dst}.ledger") as ledger:
        return int(ledger.execute("SELECT count(*) FROM spends").fetchone()[0])


@pytest.fixture(scope="module")
def alone(photos: Path, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release that nobody disturbed."""
    dst = tmp_path_factory.mktemp("alone") / "out"
    assert run(*words(photos, dst, settings))[0] == 0
    return dst


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_at_any_moment_it_goes_on_to_the_same_bytes(
    how: signal.Signals, photos: Path, settings: list[str], alone: Path, tmp_path: Path
) -> None:
    dst, audit = tmp_path / "out", tmp_path / "out-private"
    command = [sys.executable, "-m", "anonymousnet.cluster.cli", *words(photos, dst, settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    chance = random.Random(int(how))
    while not list(audit.glob("*/hands/*")) and process.poll() is None:  # it is at the first chunk
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1))
    process.send_signal(how)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == (143 if how == signal.SIGTERM else -9), said
    assert "Traceback" not in said
    assert run(*words(photos, dst, settings))[0] == 0
    assert files(dst) == files(alone)
    assert spent(dst) == spent(alone)
    assert run("verify", str(dst), "--any-signer")[0] == 0
    assert not list(tmp_path.glob(f"*/{DRAFTS}/*"))


def test_ray_makes_the_same_bytes(photos: Path, settings: list[str], alone: Path, tmp_path: Path) -> None:
    status, said = run(*words(photos, tmp_path / "out", settings, "--workers", "1"))
    assert status == 0, said
    assert files(tmp_path / "out") == files(alone)
    assert spent(tmp_path / "out") == spent(alone)


def test_a_full_disk_ends_it_in_one_line_and_it_goes_on(
    photos: Path, settings: list[str], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, 0

    def full(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, said = run(*words(photos, tmp_path / "out", settings))
    assert (status, "No space left" in said) == (2, True), said
    assert len(said.splitlines()) == 1
    assert run(*words(photos, tmp_path / "out", settings))[0] == 0
    assert files(tmp_path / "out") == files(alone)


def test_without_hard_links_and_with_what_a_kill_left_behind(
    photos: Path, settings: list[str], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "out" / DRAFTS).mkdir(parents=True)
    (tmp_path / "out" / DRAFTS / ".0123.tmp").write_bytes(b"half a marker")
    assert run(*words(photos, tmp_path / "out", settings))[0] == 0
    assert files(tmp_path / "out") == files(alone)
    (records,) = (tmp_path / "out-private").glob("*/records")
    for name in (".DS_Store", ".0123.tmp", "notes.txt"):  # names that are not its own
        (records / name).write_bytes(b"x")
        (records.parents[1] / "jobs" / name).write_bytes(b"x")
    assert run(*words(photos, tmp_path / "out", settings))[0] == 0
    status, said = run("jobs", "list", str(tmp_path / "out-private"))
    assert (status, len(said.splitlines())) == (0, 1)


def test_a_second_run_at_once_is_refused(
    photos: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BEAT", 0.2)
    config = Config.load(None, settings)
    first = anonymize(photos / "00.jpg", tmp_path / "out", config)
    with (
        held(storage_of(str(tmp_path / "out-private")), first.run),
        pytest.raises(ClusterError, match="another driver"),
    ):
        anonymize(photos / "00.jpg", tmp_path / "out", config)


def test_odd_names_and_files_are_one_entry_each_and_nothing_is_left_out_silently(
    photos: Path, settings: list[str], tmp_path: Path
) -> None:
    source, good = tmp_path / "in", (photos / "00.jpg").read_bytes()
    source.mkdir()
    odd = {f"{'n' * 251}.gif": "StorageError", os.fsdecode(b"caf\xe9.jpg"): "StorageError",
           "loop.jpg": "StorageError", "camera.jpg": "StorageError", "away.jpg": "StorageError"}  # fmt: skip
    (source / "good.jpg").write_bytes(good)
    Image.open(photos / "00.jpg").save(source / f"{'n' * 251}.gif")
    (source / os.fsdecode(b"caf\xe9.jpg")).write_bytes(good)
    (source / "loop.jpg").symlink_to("loop.jpg")
    (source / "away.jpg").symlink_to(photos / "00.jpg")
    os.mkfifo(source / "camera.jpg")
    (source / "raw.dng").write_bytes(b"x")
    (source / "more").symlink_to(photos)
    (source / ".hidden.jpg").write_bytes(good)
    status, said = run(*words(source, tmp_path / "out", settings, "--json"))
    summary = json.loads(said.splitlines()[-1])
    assert (status, summary["released"], summary["quarantined"], summary["skipped"]) == (0, 1, 5, 3)
    assert quarantine(tmp_path / "out-private") == odd
    named = {line["source"] for line in lines(tmp_path / "out-private", "left-out-*.jsonl")}
    assert named == {"raw.dng", "more", ".hidden.jpg"}
    assert run(*words(source, tmp_path / "out", settings, "--strict"))[0] == 1
    hashed = run(*words(source, tmp_path / "hashed", [*settings, "bulk.names=hashed"], "--json"))[1]
    assert json.loads(hashed.splitlines()[-1])["released"] == 3, "names that cannot be kept can be hashed"


def test_nothing_released_is_status_1(tmp_path: Path, settings: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no photo")
    assert run(*words(tmp_path / "in", tmp_path / "out", settings))[0] == 1


def test_a_photo_that_kills_is_set_aside_after_the_third_time(
    photos: Path, settings: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("00.jpg", "01.jpg", "02.jpg"):
        (tmp_path / "in" / name).write_bytes((photos / name).read_bytes())
    (tmp_path / "in" / "01.jpg").write_bytes((photos / "01.jpg").read_bytes() + b"DIES")
    (tmp_path / "sitecustomize.py").write_text(DIES)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-m", "anonymousnet.cluster.cli", *words(tmp_path / "in", tmp_path / "out", settings)]
    ends = [
        subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [end.returncode for end in ends] == [-9, 0], ends[1].stderr
    assert quarantine(tmp_path / "out-private") == {"01.jpg": "WorkerDied"}


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "not enough memory"), (ImportError("libx.so"), "a library is missing"),
     (OSError(errno.ENOSPC, "No space left"), "No space left"), (ValueError("odd"), "a rendered face fails as well")],
)  # fmt: skip
def test_a_fault_of_the_machine_is_never_a_photos(
    error: Exception, said: str, photos: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Anonymizer, "prepare", fail)
    status, printed = run(*words(photos, tmp_path / "out", settings))
    assert (status, said in printed) == (2, True), printed
    assert len(printed.splitlines()) == 1


def test_what_fails_over_one_photo_alone_is_that_photos(
    photos: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymizer, prepare = Anonymizer.load(Config.load(None, settings)), Anonymizer.prepare

    def fail(self: Anonymizer, photo: object, *more: object) -> object:
        if isinstance(photo, bytes) and photo == b"odd":
            raise ValueError("odd")
        return prepare(self, photo, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Anonymizer, "prepare", fail)
    good = (photos / "00.jpg").read_bytes()
    first, second = protect.protect(anonymizer, [(b"odd", None), (good, None)])
    assert isinstance(first, ValueError)
    assert not isinstance(second, Exception)
    assert faults.machine_fault(first) is None


def test_a_setting_that_no_machine_can_use_is_named(
    photos: Path, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    status, said = run(*words(photos, tmp_path / "out", settings))
    assert (status, "OMP_NUM_THREADS: expected one number" in said) == (2, True)


def test_a_worker_that_dies_over_everything_is_the_machines(photos: Path) -> None:
    from anonymousnet.pipelines.bulk_hands import MOST, Hands

    assert bulk_plan.CHUNK > MOST
    place = storage_of(str(photos.parent / "hands"))
    job = type("Job", (), {"audit": place, "run": "run"})()
    deaths = {str(i): 3 for i in range(MOST + 1)}
    place.put("run/hands/00000000.json", json.dumps({"driver": "d", "at": None, "deaths": deaths}).encode())
    with pytest.raises(MachineError, match="too little memory"):
        Hands(job, "d", 0)  # type: ignore[arg-type]
