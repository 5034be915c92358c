"""The service against its peers, each on both cores: requests per second, latency, errors and memory under load.

    python -m tests.bench.bench_serve [fastapi litserve composed fused composed-haproxy fused-haproxy]

The load is `wrk` where it is installed, else a small client of our own. The photo is the skimage astronaut, or the file
that ANONYMOUSNET_BENCH_PHOTO names.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

MEDIA_TYPES = {".jpg": "image/jpeg", ".json": "application/json"}
CONCURRENCIES = (1, 16, 64)
SECONDS = 12
PORT = 18_700
PEERS = ("fastapi", "litserve", "composed", "fused", "composed-haproxy", "fused-haproxy")


class Load(NamedTuple):
    """What one load came to."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[tuple[str, int], Load] = {}
    with tempfile.TemporaryDirectory() as name:
        photo = write_photo(Path(name) / "photo.jpg")
        for peer in sys.argv[1:] if sys.argv[0].endswith("bench_serve.py") and sys.argv[1:] else PEERS:
            body = as_json(photo) if peer == "litserve" else photo
            with started(peer, body) as (process, key):
                load(body, 4, 5, key)  # warm: networks, caches, connections
                for concurrency in CONCURRENCIES:
                    found[peer, concurrency] = row = load(body, concurrency, SECONDS, key)
                    line = f"{peer:<17} c={concurrency:<3} {row.per_second:6.2f} req/s  p50 {row.p50_ms:7.1f} ms"
                    line += f"  p99 {row.p99_ms:7.1f} ms  errors {row.errors}  memory {memory_mb(process):5.0f} MB"
                    print(line, flush=True)
    if ("fastapi", 1) in found:
        for peer in {peer for peer, _ in found} - {"fastapi"}:
            ratios = (f"c={c} {found[peer, c].per_second / found['fastapi', c].per_second:.2f}" for c in CONCURRENCIES)
            added = found[peer, 1].p50_ms - found["fastapi", 1].p50_ms
            print(f"{peer:<17} of fastapi's requests/s: {', '.join(ratios)}; added p50 at c=1: {added:.1f} ms")


def write_photo(path: Path) -> Path:
    """A JPEG with one face."""
    from PIL import Image
    from skimage.data import astronaut

    if named := os.environ.get("ANONYMOUSNET_BENCH_PHOTO"):
        shutil.copy(named, path)
    else:
        Image.fromarray(astronaut()[:256, 96:352]).save(path, quality=90)
    return path


def as_json(photo: Path) -> Path:
    """The photo as LitServe takes it."""
    body = photo.with_suffix(".json")
    body.write_text(json.dumps({"photo": base64.b64encode(photo.read_bytes()).decode()}))
    return body


@contextmanager
def started(peer: str, body: Path) -> Iterator[tuple[psutil.Process, str | None]]:
    """A server on PORT, ready; it and an API key, where one is needed."""
    key, python, folder = None, [sys.executable, "-m"], body.parent
    if peer in ("fastapi", "litserve"):
        command = [*python, "tests.bench.serve_peers", peer, str(PORT)]
    else:
        command = [*python, "anonymousnet.cluster.cli", "serve", "--port", str(PORT), *settings(peer)]
        if peer.endswith("haproxy"):
            key = new_key(folder / "keys.json")
            command += ["--trust-network", "--set", "serve.haproxy=true", "--set", f"serve.keys={folder / 'keys.json'}"]
    log = (folder / f"{peer}.log").open("wb")
    process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(peer, body, key)
        yield process, key
    finally:
        children = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        for left in psutil.wait_procs([process, *children], 60)[1]:  # LitServe leaves its workers behind
            left.kill()


def settings(peer: str) -> list[str]:
    """As many replicas as there are cores, from the start: what is compared is not the autoscaling."""
    if peer.startswith("fused"):
        return ["--fused", "--set", "serve.fused_replicas.min=2"]
    return [text for name in ("align", "predict", "synthesize") for text in ("--set", f"serve.{name}.max=1")]


def new_key(file: Path) -> str:
    from anonymousnet.serve.keys import new_key as make

    file.unlink(missing_ok=True)
    return make(file, "bench")


def load(photo: Path, concurrency: int, seconds: float, key: str | None = None) -> Load:
    """Post the photo over and over on so many connections."""
    return (_wrk if shutil.which("wrk") else _own)(photo, concurrency, seconds, key)


def memory_mb(process: psutil.Process) -> float:
    """Proportional share of memory of the server and all that it started."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**20


def _wrk(photo: Path, concurrency: int, seconds: float, key: str | None) -> Load:
    script = photo.with_suffix(".lua")
    auth = f'wrk.headers["Authorization"] = "Bearer {key}"\n' if key else ""
    script.write_text(
        f'wrk.method = "POST"\nlocal file = io.open("{photo}", "rb")\nwrk.body = file:read("*a")\n'
        f'wrk.headers["Content-Type"] = "{MEDIA_TYPES[photo.suffix]}"\n{auth}'
        "done = function(summary, latency)\n"
        '  io.write(string.format("RESULT %f %f %f %d\\n", summary.requests / summary.duration * 1e6,\n'
        "    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, summary.errors.status +\n"
        "    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))\nend\n"
    )
    done = subprocess.run(
        ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script), _url()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    values = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+)", done.stdout)
    assert values, done.stdout
    return Load(float(values[1]), float(values[2]), float(values[3]), int(values[4]))


def _own(photo: Path, concurrency: int, seconds: float, key: str | None) -> Load:
    """The same with aiohttp, which comes with Ray."""
    import aiohttp

    body, times, errors = photo.read_bytes(), list[float](), 0
    headers = {"Content-Type": MEDIA_TYPES[photo.suffix]} | ({"Authorization": f"Bearer {key}"} if key else {})

    async def client(session: aiohttp.ClientSession, until: float) -> None:
        nonlocal errors
        while time.monotonic() < until:
            begun = time.monotonic()
            async with session.post(_url(), data=body, headers=headers) as response:
                await response.read()
                errors += response.status != 200
            times.append((time.monotonic() - begun) * 1e3)

    async def all_of_them() -> float:
        begun = time.monotonic()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(client(session, begun + seconds) for _ in range(concurrency)))
        return time.monotonic() - begun

    took = asyncio.run(all_of_them())
    times.sort()
    return Load(len(times) / took, times[len(times) // 2], times[int(len(times) * 0.99)], errors)


def _url() -> str:
    return f"http://127.0.0.1:{PORT}/v1/anonymize"


def _wait(peer: str, photo: Path, key: str | None) -> None:
    """Until it answers a photo."""
    headers = {"Content-Type": MEDIA_TYPES[photo.suffix]} | ({"Authorization": f"Bearer {key}"} if key else {})
    for _ in range(240):
        try:
            asked = urllib.request.Request(_url(), photo.read_bytes(), headers, method="POST")
            with urllib.request.urlopen(asked, timeout=30) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{peer} did not answer: {json.dumps(str(photo.parent))}")


if __name__ == "__main__":
    main()
