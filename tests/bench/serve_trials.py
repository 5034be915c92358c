"""The service under what happens in production; each trial prints what it saw.

python -m tests.bench.serve_trials killed [REQUESTS]    replicas of every stage killed with -9 in turn, under load
python -m tests.bench.serve_trials grows                replicas of synthesize under load and after it, with times
python -m tests.bench.serve_trials asleep               no replicas while nobody asks: what a cold start costs
python -m tests.bench.serve_trials broken [BODIES]      broken photos; which statuses, and whether a replica died
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import io
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
from PIL import Image

from anonymousnet.config import Config
from anonymousnet.serve.session import running
from tests.bench.bench_serve import PORT, write_photo

STAGES = ("Align", "Predict", "Obfuscate", "Synthesize", "Perturb")
URL = f"http://127.0.0.1:{PORT}/v1/anonymize"
Ask = Callable[[bytes], Awaitable[tuple[int, str, float]]]


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    trial, more = sys.argv[1], sys.argv[2:]
    settings = {
        "killed": [f"serve.{name.lower()}.max=1" for name in STAGES],
        "grows": ["serve.synthesize.max=3", "serve.synthesize.upscale_s=2", "serve.synthesize.downscale_s=10",
                  "serve.synthesize.target=0.2", "serve.align.ongoing=64"],
        "asleep": [s for name in STAGES for s in (f"serve.{name.lower()}.min=0", f"serve.{name.lower()}.max=1",
                                                  f"serve.{name.lower()}.downscale_s=5")],
        "broken": [f"serve.{name.lower()}.max=1" for name in STAGES],
    }[trial]  # fmt: skip
    config = Config.load(None, [f"serve.port={PORT}", "serve.deadline_s=60", *settings])
    with tempfile.TemporaryDirectory() as folder, running(config):
        photo = write_photo(Path(folder) / "photo.jpg").read_bytes()
        asyncio.run(TRIALS[trial](photo, *map(int, more)))


async def killed(photo: bytes, requests: int = 2000, concurrency: int = 16) -> None:
    """`requests` answers while the replicas of each stage die in turn, the next when the last are back."""
    found: collections.Counter[int] = collections.Counter()
    bodies: collections.Counter[str] = collections.Counter()
    killed_: collections.Counter[str] = collections.Counter()
    times: list[float] = []

    async def kill_in_turn() -> None:
        for stage in itertools.cycle(STAGES):
            await asyncio.sleep(5)
            dead = replicas(stage)
            for pid in dead:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed_[stage] += 1
            while not set(replicas(stage)) - set(dead):
                await asyncio.sleep(0.5)

    async with _asking() as ask:
        right = (await ask(photo))[1]
        killer = asyncio.create_task(kill_in_turn())
        queue = iter(range(requests))

        async def client() -> None:
            for _ in queue:
                status, body, seconds = await ask(photo)
                found[status] += 1
                bodies["right" if body == right else "WRONG"] += 1
                times.append(seconds)

        begun = time.monotonic()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        killer.cancel()
    times.sort()
    print(f"killed with -9: {dict(killed_)}")
    rate = requests / (time.monotonic() - begun)
    print(f"answers: {dict(found)}, {dict(bodies)}; {rate:.1f} a second, "
          f"p50 {times[len(times) // 2]:.2f} s, p99 {times[int(len(times) * 0.99)]:.2f} s, "
          f"longest {times[-1]:.2f} s")  # fmt: skip


async def grows(photo: bytes, seconds: int = 60) -> None:
    """Replicas of synthesize, each change with its time. On two cores it waits for align, and so aims at a fifth of a
    photo under way per replica; nine faces in a photo, that painting them takes its time."""
    photo = nine_of(photo)
    async with _asking() as ask:
        await ask(photo)
        begun, last = time.monotonic(), -1
        over = begun + seconds

        found: collections.Counter[int] = collections.Counter()

        async def client() -> None:
            while time.monotonic() < over:
                found[(await ask(photo))[0]] += 1

        load = [asyncio.create_task(client()) for _ in range(24)]
        while time.monotonic() < over + 60:
            if (now := len(replicas("Synthesize"))) != last:
                state = "under load" if time.monotonic() < over else "after it"
                print(f"{time.monotonic() - begun:6.1f} s  {now} replicas of Synthesize ({state})", flush=True)
                last = now
            if time.monotonic() > over and now == 1:
                break
            await asyncio.sleep(0.25)
        await asyncio.gather(*load)
    print(f"answers: {dict(found)}")


async def asleep(photo: bytes) -> None:
    """How long until nothing runs, and what the first photo then takes."""
    async with _asking() as ask:
        for _ in range(2):
            begun = time.monotonic()
            while any(replicas(name) for name in STAGES):
                await asyncio.sleep(0.5)
            print(f"no replica of any stage after {time.monotonic() - begun:.1f} s", flush=True)
            status, _, seconds = await ask(photo)
            print(f"cold start: {status} after {seconds:.1f} s; then {(await ask(photo))[2] * 1e3:.0f} ms", flush=True)


async def broken(photo: bytes, bodies: int = 500) -> None:
    """Photos with random damage."""
    before = {name: replicas(name) for name in STAGES}
    found: collections.Counter[int] = collections.Counter()
    async with _asking() as ask:
        for i in range(bodies):
            damaged = bytearray(photo)
            for _ in range(1 + i % 40):
                damaged[int.from_bytes(os.urandom(4)) % len(damaged)] = os.urandom(1)[0]
            found[(await ask(bytes(damaged[: len(damaged) - (i % 5) * 1500])))[0]] += 1
    print(f"{bodies} broken bodies: {dict(found)}; replicas that died: {sum(before[n] != replicas(n) for n in STAGES)}")


def nine_of(photo: bytes) -> bytes:
    """A photo three times beside and below itself, as JPEG."""
    with Image.open(io.BytesIO(photo)) as image:
        width, height = image.size
        sheet = Image.new("RGB", (3 * width, 3 * height))
        for i in range(9):
            sheet.paste(image, (i % 3 * width, i // 3 * height))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=90)
    return file.getvalue()


def replicas(name: str) -> list[int]:
    """Processes of a deployment's replicas, below this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if (child.cmdline() or [""])[0].startswith(f"ray::ServeReplica:anonymousnet:{name}"):
                found.append(child.pid)
    return found


class _asking:
    """A session that posts photos: status, hash of the body, seconds."""

    async def __aenter__(self) -> Ask:
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))

        async def ask(photo: bytes) -> tuple[int, str, float]:
            begun = time.monotonic()
            async with self.session.post(URL, data=photo, headers={"Content-Type": "image/jpeg"}) as answer:
                body = await answer.read()
            return answer.status, hashlib.sha256(body).hexdigest(), time.monotonic() - begun

        return ask

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


TRIALS = {"killed": killed, "grows": grows, "asleep": asleep, "broken": broken}

if __name__ == "__main__":
    main()
