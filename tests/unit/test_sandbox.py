"""The process that reads strangers' files: its bounds, its death, and that nothing of one file reaches the next."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from anonymousnet.data import child, decode, images, sandbox
from anonymousnet.data.images import load_photo
from anonymousnet.data.sandbox import Bounds, Stopped, ask
from anonymousnet.errors import ImageTooLarge, ImageTooSlow, MachineError, TruncatedImage, UnreadableImage

HERE = "tests.unit.test_sandbox"
WIDE = Bounds(20, 1 << 30)


def echo(stream: BinaryIO, **arguments: Any) -> tuple[dict[str, Any], list[bytes]]:
    return {"pid": os.getpid(), **arguments}, [stream.read()]


def spin(stream: BinaryIO, where: str = "") -> tuple[dict[str, Any], list[bytes]]:
    while True:
        pass


def sleep(stream: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    time.sleep(3600)
    raise AssertionError


def swell(stream: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    return {}, [bytes(1 << 31)]


def die(stream: BinaryIO, number: int, note: str = "") -> tuple[dict[str, Any], list[bytes]]:
    if note:
        with open(note, "a") as told:
            told.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise AssertionError


def refuse(stream: BinaryIO, kind: str) -> tuple[dict[str, Any], list[bytes]]:
    raise {"ours": TruncatedImage, "theirs": KeyError}[kind]("said\nso")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process of this test's, which finds this module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    sandbox._leave()
    yield
    sandbox._leave()


def asked(task: str, source: Any = b"", bounds: Bounds = WIDE, **arguments: Any) -> tuple[dict[str, Any], bytes]:
    answer, file = ask(f"{HERE}:{task}", source, bounds, **arguments)
    with file:
        return answer, file.read()


def test_bytes_and_files_go_there_and_back(tmp_path: Path) -> None:
    first, data = asked("echo", b"abc", name="a\udcff\n")
    assert (data, first["name"]) == (b"abc", "a\udcff\n")
    (tmp_path / "file").write_bytes(bytes(range(256)) * 40_000)
    with (tmp_path / "file").open("rb") as stream:
        stream.read(10)
        again, data = asked("echo", stream)
    assert data == bytes(range(256)) * 40_000
    assert again["pid"] == first["pid"] != os.getpid()


def test_it_gets_no_keys_and_imports_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (tmp_path / "light.py").write_text(
        "import os, sys\ndef told(stream): return {'modules': sorted(sys.modules), 'env': dict(os.environ)}, []\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    load_photo(picture())
    found = ask("light:told", b"", WIDE)[0]
    assert not {"torch", "ray", "pydantic", "pyarrow", "onnxruntime", "cv2"} & set(found["modules"])
    assert "secret" not in found["env"].values()


def test_seconds_are_bounded_and_the_next_file_is_read() -> None:
    with pytest.raises(Stopped, match="more") as stopped:
        asked("spin", bounds=Bounds(1, 1 << 30))
    assert stopped.value.why == "time"
    assert asked("echo", b"next")[1] == b"next"


def test_what_waits_for_itself_is_ended_and_what_works_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked("echo")
    monkeypatch.setattr(sandbox, "IDLE_S", 0.05)
    with pytest.raises(Stopped, match="waits for itself, for 0.1 s"):
        asked("sleep")
    with pytest.raises(Stopped, match="more"):
        asked("spin", bounds=Bounds(1, 1 << 30))


def test_memory_is_bounded() -> None:
    with pytest.raises(Stopped, match="more than 1024 MiB") as stopped:
        asked("swell")
    assert stopped.value.why == "memory"
    assert asked("echo", b"next")[1] == b"next"


def test_a_crash_is_told() -> None:
    with pytest.raises(Stopped, match="SIGSEGV") as stopped:
        asked("die", number=int(signal.SIGSEGV))
    assert stopped.value.why == "crash"
    with pytest.raises(Stopped, match="KeyError 'said"):
        asked("refuse", kind="theirs")
    with pytest.raises(TruncatedImage, match="said\nso"):
        asked("refuse", kind="ours")


def test_what_the_system_kills_is_tried_three_times(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="ended 3 times"):
        asked("die", number=int(signal.SIGKILL), note=str(tmp_path / "note"))
    assert len(set((tmp_path / "note").read_text().split())) == 3


def test_what_earlier_files_left_is_not_the_next_ones_fault(tmp_path: Path) -> None:
    asked("echo")
    with pytest.raises(Stopped):
        asked("die", number=int(signal.SIGSEGV), note=str(tmp_path / "note"))
    assert len(set((tmp_path / "note").read_text().split())) == 2, "once more, in a process of its own"


def test_an_interrupt_leaves_no_answer_behind() -> None:
    over = threading.Event()

    def strike() -> None:
        while not over.wait(0.5):  # again where the first one met a moment that swallows it
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=strike, daemon=True).start()

    def interrupted() -> None:
        try:
            asked("sleep")
        finally:
            over.set()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert asked("echo", b"next")[1] == b"next"


def test_a_fork_takes_a_process_of_its_own() -> None:
    mine = asked("echo")[0]["pid"]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        theirs = pool.apply(asked, ("echo",))[0]["pid"]
    assert theirs != mine
    assert asked("echo")[0]["pid"] == mine


def test_it_ends_with_its_parent_however_that_ends() -> None:
    code = (
        "import os, signal; from anonymousnet.data import sandbox; "
        "sandbox.ask('tests.unit.test_sandbox:echo', b'', sandbox.Bounds(20, 1 << 30)); "
        "print(sandbox._kept._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    known = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=known, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(100):
        if not Path("/proc", done.stdout.strip(), "cmdline").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it is left behind")


def test_many_threads_ask_one_after_the_other() -> None:
    found: dict[int, bytes] = {}

    def one(i: int) -> None:
        found[i] = asked("echo", bytes([i]) * 1000)[1]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: bytes([i]) * 1000 for i in range(8)}


def test_a_machine_that_starts_no_process_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("/nowhere/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", command)
        with pytest.raises(MachineError, match="cannot start the process that reads files"):
            load_photo(b"\xff\xd8\xff")


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("why", "kind", "words"),
    [
        ("time", ImageTooSlow, "within 10 s of CPU time, and one for every 2000000 pixels, found so; export it again"),
        ("memory", ImageTooLarge, "within 3465 MiB of memory, found so"),
        ("crash", UnreadableImage, r"the picture breaks its decoder \(so\)"),
    ],
)
def test_photos_are_refused_by_name(
    why: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped(why, "so")

    monkeypatch.setattr(sandbox, "ask", stop)
    with pytest.raises(kind, match=words):
        load_photo(picture())


def test_a_slow_photo_is_refused_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All the scans that a JPEG may have, in one that is large."""
    monkeypatch.setattr(images, "seconds_for", lambda pixels: 1)
    out = io.BytesIO()
    Image.new("RGB", (7_900, 7_900)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    slow = data[:last] + data[last:-2] * 40 + b"\xff\xd9"
    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "ask", partial(_asked_slowly, sandbox.ask))
        with pytest.raises(ImageTooSlow, match="expected to decode within 10 s of CPU time, .* found more"):
            load_photo(slow)
    assert load_photo(picture()).rgb.shape == (64, 64, 3)


def _asked_slowly(real: Any, task: str, *rest: Any, **arguments: Any) -> Any:
    """The same without what a header adds."""
    return real(f"{HERE}:decode_slowly", *rest, **arguments)


def decode_slowly(stream: BinaryIO, name: str, max_pixels: int) -> tuple[dict[str, Any], list[bytes]]:
    decode.decode_file(stream, name, max_pixels)
    return {}, []


def test_a_header_decides_how_long_its_photo_may_take() -> None:
    told: list[int] = []
    decode.decode_file(io.BytesIO(picture()), "", 10_000, told.append)
    assert told == [64 * 64]
    assert [decode.seconds_for(pixels) for pixels in (1, 2_000_000, 64_000_000)] == [10, 11, 42]
    assert images.bounds(64_000_000).seconds == 42
    with pytest.raises(Stopped, match="more"):
        asked("spin_shortly")


def spin_shortly(stream: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    child.allow_seconds(1)
    return spin(stream)
