"""The service attacked by strangers without a key, while a customer with one goes on asking. On loopback, bounded.

    python -m tests.attacks.strangers [bodies half_sent slow_jpegs slow_heads]

Bodies of 300 MB, half-sent bodies, JPEGs that decode slowly, heads that never end; then photos of 19 MiB, in and out.
Prints what each does to the service's memory (of all its processes, shared pages counted once) and to the customer's
median time; exit 1 where an attack costs more than 100 MB or twice the time, or anything is answered wrongly.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
from PIL import Image

from anonymousnet.config import Config
from anonymousnet.data.synthetic import render_page
from anonymousnet.serve.keys import new_key
from anonymousnet.serve.session import running
from tests.conftest import write_small_weights

MOST_MB, MOST_TIMES = 100, 2.0
ASKED = 15
"""Requests of the customer, at least, before and during each attack."""
DEADLINE_S = 120.0
"""Of the service under test: photos of 19 MiB take long on a machine that does other things."""
Attack = Callable[[int], Coroutine[Any, Any, str]]


class Measurement(NamedTuple):
    """A service's memory and a customer's time."""

    mb: float
    median_s: float
    worst_s: float


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "weights").mkdir()
        secret = new_key(folder / "keys.json", "customer")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        config = Config.load(None, [
            *write_small_weights(folder / "weights"), f"serve.port={port}", f"serve.keys={folder}/keys.json",
            "serve.fused=true", "serve.fused_replicas.max=1", f"serve.deadline_s={DEADLINE_S}",
        ])  # fmt: skip
        with running(config):
            customer = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S + 15,
                                    headers={"Authorization": f"Bearer {secret}"})  # fmt: skip
            photo = encoded(render_page(1, faces=1, width=320)[0], "JPEG")
            ask(customer, photo)  # warm
            named = [attack for attack in ATTACKS if attack.__name__ in sys.argv[1:]]
            for attack in named or ATTACKS:
                failed += not row(attack, port, customer, photo)
            failed += not large(customer)
    return int(failed > 0)


def row(attack: Attack, port: int, customer: httpx.Client, photo: bytes) -> bool:
    """One attack beside the same customer before it; whether it cost no more than it may."""
    before = measure(customer, photo, lambda: False)
    said = multiprocessing.get_context("spawn").SimpleQueue()
    stranger = multiprocessing.get_context("spawn").Process(target=_attack, args=(attack, port, said), daemon=True)
    stranger.start()
    during = measure(customer, photo, stranger.is_alive)
    stranger.join(60)
    more, times = during.mb - before.mb, during.median_s / before.median_s
    right = more <= MOST_MB and times <= MOST_TIMES
    print(f"{attack.__doc__:<42} memory +{more:5.0f} MB   customer {before.median_s:5.2f} -> {during.median_s:5.2f} s "
          f"(x{times:4.2f}, worst {during.worst_s:5.2f})   {said.get()}   {'' if right else 'TOO MUCH'}",
          flush=True)  # fmt: skip
    return right


def measure(customer: httpx.Client, photo: bytes, still: Callable[[], bool]) -> Measurement:
    """The customer's times, and the most memory meanwhile."""
    times, most = list[float](), 0.0
    while len(times) < ASKED or still():
        times.append(ask(customer, photo))
        most = max(most, memory_mb())
    return Measurement(most, statistics.median(times), max(times))


def ask(customer: httpx.Client, photo: bytes) -> float:
    """Seconds of a request. Raises AssertionError where it is not served."""
    started = time.monotonic()
    answer = customer.post("/v1/anonymize", content=photo)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - started


def memory_mb() -> float:
    """Of all processes of the service."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "spawn_main" not in " ".join(process.cmdline()):  # the stranger
                total += process.memory_full_info().pss
    return total / 1e6


def large(customer: httpx.Client) -> bool:
    """19 MiB of PNG in, and as much out: whether they come."""
    noise = np.random.default_rng(0).integers(0, 256, (2560, 2600, 3), dtype=np.uint8)
    noise[200:840, 200:840] = render_page(1, faces=1, width=640)[0][:640, :640]
    photo = encoded(noise, "PNG")
    started = time.monotonic()
    answer = customer.post("/v1/anonymize", content=photo)
    right = answer.status_code == 200 and len(answer.content) > 18 << 20
    sizes = f"{len(photo) / 2**20:.1f} MiB in, {len(answer.content) / 2**20:.1f} MiB out"
    print(f"{sizes}: {answer.status_code}, {time.monotonic() - started:.1f} s   {'' if right else 'WRONG'}", flush=True)
    return right


def _attack(attack: Attack, port: int, said: Any) -> None:
    os.nice(19)  # the strangers' computing is not the service's
    said.put(asyncio.run(attack(port)))


async def bodies(port: int) -> str:
    """300 bodies of 300 MB, 50 at once"""
    size, part = 300_000_000, bytes(1 << 16)
    few, sent, heard = asyncio.Semaphore(50), 0, Counter[str]()

    async def one(number: int) -> None:
        nonlocal sent
        how = f"Content-Length: {size}" if number % 2 else "Transfer-Encoding: chunked"
        async with few:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(number, how))
            try:
                for _ in range(size // len(part)):
                    writer.write(part if number % 2 else b"10000\r\n" + part + b"\r\n")
                    await writer.drain()
                    sent += len(part)
            except OSError:
                pass
            await listen(reader, heard)
            writer.transport.abort()

    await asyncio.gather(*(one(number) for number in range(300)))
    return f"{sent / 300e6:.1f} MB of each taken, {summarize(heard)}"


async def half_sent(port: int) -> str:
    """600 half-sent bodies at once, for 20 s"""
    return await held(port, 600, lambda number: [head(number, "Content-Length: 100000"), b"x" * 5000])


async def slow_jpegs(port: int) -> str:
    """100 JPEGs of 3,000 scans at once"""
    out = io.BytesIO()
    Image.fromarray(np.zeros((2000, 2000, 3), np.uint8)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    photo = whole[:-2] + scan * 3000 + whole[-2:]
    return await held(port, 100, lambda number: [head(number, f"Content-Length: {len(photo)}"), photo])


async def slow_heads(port: int) -> str:
    """700 heads, a line a second, for 20 s"""
    return await held(port, 700, lambda number: [b"GET / HTTP/1.1\r\n", *[b"X-More: 1\r\n"] * 20])


async def held(port: int, count: int, parts: Callable[[int], list[bytes]], seconds: float = 20) -> str:
    """Open connections, all at once, and send the parts of each over as many seconds."""
    heard = Counter[str]()

    async def one(number: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            heard[type(error).__name__] += 1
            return
        begun, said = time.monotonic(), parts(number)
        with suppress(OSError):
            for part in said:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(seconds / len(said) if len(said) > 2 else 0)
        await listen(reader, heard, begun + seconds - time.monotonic())
        writer.transport.abort()

    await asyncio.gather(*(one(number) for number in range(count)))
    return summarize(heard)


async def listen(reader: asyncio.StreamReader, heard: Counter[str], seconds: float = 5) -> None:
    """What the service says to a stranger."""
    try:
        said = await asyncio.wait_for(reader.read(12), max(seconds, 0.1))
        heard[said[9:12].decode() or "closed"] += 1
    except (OSError, TimeoutError) as error:
        heard["closed" if isinstance(error, ConnectionError) else "kept"] += 1


def head(number: int, how: str) -> bytes:
    """A request for a photo, without a key or with a wrong one."""
    key = "" if number % 3 else "Authorization: Bearer an_customer_guess\r\n"
    return f"POST /v1/anonymize HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}{how}\r\n\r\n".encode()


def summarize(heard: Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in heard.most_common())


def encoded(image: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, compress_level=1)
    return out.getvalue()


ATTACKS = (bodies, half_sent, slow_jpegs, slow_heads)

if __name__ == "__main__":
    sys.exit(main())
