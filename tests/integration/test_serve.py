"""The service on a real Ray Serve session: one for all tests, with small networks."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.images import encode_photo
from anonymousnet.data.synthetic import render_page
from anonymousnet.privacy.randomness import load_key
from anonymousnet.serve.keys import new_key
from anonymousnet.serve.session import running
from anonymousnet.weights.versions import publish

STAGES = ("Align", "Predict", "Obfuscate", "Synthesize", "Perturb")
SUBJECT = "somebody-whose-name-nobody-may-log"
METRICS_S = 12.0
"""In it metrics come from a replica to where they are read."""
DEADLINE_S = 45.0
"""A killed replica is back before that, also on a machine that is busy with other tests."""


@dataclass(frozen=True)
class Running:
    """A service, and how to ask it."""

    config: Config
    client: httpx.Client
    secret: str
    versions: Path
    logs: Path
    metrics: str

    def post(self, photo: bytes, **query: str) -> httpx.Response:
        return self.client.post("/v1/anonymize", params=query, content=photo, headers={"Content-Type": "image/jpeg"})


@pytest.fixture(scope="module")
def photo() -> bytes:
    out = io.BytesIO()
    Image.fromarray(render_page(1, faces=1, width=320)[0]).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.fixture(scope="module")
def service(small_weights: list[str], photo: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    secret = new_key(folder / "keys.json", "acme")
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    publish(folder / "universal", "universal", {"v": torch.ones(3, 64, 64)}, {})
    config = Config.load(None, [
        *small_weights, f"perturb.weights={folder}/universal", f"release.ledger={folder}/ledger.sqlite",
        f"serve.port={port}", f"serve.keys={folder}/keys.json", f"serve.deadline_s={DEADLINE_S}", "serve.watch_s=0.2",
        *(f"serve.{stage.lower()}.max=1" for stage in STAGES), f"serve.turing.answers={folder}/turing.sqlite",
    ])  # fmt: skip
    with running(config) as session:
        import ray

        logs = Path(ray._private.worker._global_node.get_logs_dir_path())  # type: ignore[attr-defined]
        headers = {"Authorization": f"Bearer {secret}"}
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=DEADLINE_S + 30)
        yield (service := Running(config, client, secret, folder / "universal", logs, session.metrics[0]))
        pool = ThreadPoolExecutor(6)
        last = [pool.submit(service.post, photo) for _ in range(6)]
        time.sleep(0.3)
    with pool, closing(client):  # whoever was being served when it ended got an answer
        assert {one.result().status_code for one in last} == {200}


def passes(metrics: str) -> float:
    """Photos that were aligned so far."""
    line = r'^ray_anonymousnet_stage_seconds_count\{.*?stage="align".*?\} ([0-9.]+)$'
    return sum(map(float, re.findall(line, httpx.get(metrics).text, re.M)))


def replicas(name: str) -> list[int]:
    """Processes of a deployment's replicas, below this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with_title = child.cmdline()[:1] if child.is_running() else []
        if with_title and with_title[0].startswith(f"ray::ServeReplica:anonymousnet:{name}"):
            found.append(child.pid)
    return found


def test_the_answer_is_the_anonymizers(service: Running, photo: bytes) -> None:
    release = service.config.release.model_copy(update={"name": "acme/default"})
    alone = Anonymizer.load(service.config.model_copy(update={
        "release": release, "perturb": service.config.perturb.model_copy(
            update={"weights": str(service.versions / "versions" / "0001")})}),
        load_key(service.config.release.key_file))  # fmt: skip
    answer = service.post(photo)
    assert answer.status_code == 200, answer.text
    assert answer.content == encode_photo(alone(photo).image, "same", 95)[0]
    assert service.client.get("/v1/health/ready").json() == {"status": "ready"}
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert "<html" in service.client.get("/").text


def test_only_this_machine_reaches_anything_that_listens(service: Running) -> None:
    found = dict[int, str]()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):
            found |= {one.laddr.port: one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"}
    assert set(found.values()) == {"127.0.0.1", "::ffff:127.0.0.1"}, found
    assert service.config.serve.port in found
    assert len(found) > 10  # Ray's own were looked at, too


def test_nobody_else_reads_what_ray_keeps(service: Running) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    home = next(folder for folder in service.logs.parents if folder.name == f"anonymousnet-{os.getuid()}")
    assert home.stat().st_mode & 0o777 == 0o700
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    assert os.environ.get("RAY_AUTH_TOKEN") or token.stat().st_mode & 0o777 == 0o600


def test_a_photo_of_more_than_grpcs_4_mib_comes_and_goes(service: Running) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), dtype=np.uint8)
    page = render_page(1, faces=1, width=320)[0]
    noise[100 : 100 + page.shape[0], 100 : 100 + page.shape[1]] = page
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=1)
    assert out.tell() > 4 << 20
    answer = service.client.post("/v1/anonymize", content=out.getvalue())
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 4 << 20


def test_nobody_computes_for_clients_who_have_left(service: Running, photo: bytes) -> None:
    head = (f"POST /v1/anonymize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.secret}\r\n"
            f"Content-Length: {len(photo)}\r\n\r\n").encode()  # fmt: skip
    service.post(photo)
    time.sleep(METRICS_S)
    before = passes(service.metrics)
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", service.config.serve.port)) as client:
            client.sendall(head + photo)
            time.sleep(0.02)
    service.post(photo)
    time.sleep(METRICS_S)
    assert passes(service.metrics) - before <= 10  # the last, and those that were begun


def test_a_replica_of_each_stage_killed_under_load_loses_nothing(service: Running, photo: bytes) -> None:
    right = service.post(photo).content

    def ask(_: int) -> bytes:
        answer = service.post(photo)
        assert answer.status_code == 200, answer.text
        return answer.content

    with ThreadPoolExecutor(4) as pool:
        answers = []
        for stage in STAGES:
            batch = [pool.submit(ask, i) for i in range(8)]
            time.sleep(0.2)
            for pid in replicas(stage):
                os.kill(pid, signal.SIGKILL)
            answers += [one.result() for one in batch]
    assert answers == [right] * len(STAGES) * 8


def test_a_new_perturbation_is_taken_up_and_nobody_waits(service: Running, photo: bytes) -> None:
    def used() -> str:
        answer = service.post(photo)
        assert answer.status_code == 200, answer.text
        found = re.search('universal="([0-9a-f]{64})"', answer.headers["anonymousnet-weights"])
        assert found
        return found[1]

    before = used()
    publish(service.versions, "universal", {"v": -torch.ones(3, 64, 64)}, {})
    until = time.monotonic() + 20
    while (now := used()) == before:
        assert time.monotonic() < until
    assert service.client.get("/v1/version").json()["weights"]["universal"] == now


def test_slow_clients_and_those_who_hang_up_hold_nobody_up(service: Running, photo: bytes) -> None:
    where = ("127.0.0.1", service.config.serve.port)
    head = (f"POST /v1/anonymize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.secret}\r\n"
            f"Content-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n").encode()  # fmt: skip

    async def dribble() -> bytes:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(head)
        for i in range(len(photo)):
            writer.write(photo[i : i + 1])
            try:
                await asyncio.wait_for(reader.read(1), 1)
                break
            except TimeoutError:
                continue
        writer.close()
        return b"HTTP/1.1 408" if i >= DEADLINE_S - 5 else b"too early"

    async def hang_up() -> None:
        for _ in range(20):
            _, writer = await asyncio.open_connection(*where)
            writer.write(head + photo)
            await writer.drain()
            writer.transport.abort()

    async def all_at_once() -> tuple[list[Any], list[float]]:
        slow = [asyncio.create_task(dribble()) for _ in range(30)]
        await hang_up()
        times = []
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(4):
                begun = time.monotonic()
                answer = await client.post(f"http://127.0.0.1:{where[1]}/v1/anonymize", content=photo,
                                           headers={"Authorization": f"Bearer {service.secret}"})  # fmt: skip
                assert answer.status_code == 200
                times.append(time.monotonic() - begun)
        return await asyncio.gather(*slow), times

    ended, times = asyncio.run(all_at_once())
    assert set(ended) == {b"HTTP/1.1 408"}
    assert min(times) < 5


def test_broken_bodies_kill_no_replica(service: Running, photo: bytes) -> None:
    before = {stage: replicas(stage) for stage in STAGES}
    statuses = set()
    for i in range(60):
        cut = bytearray(photo)
        cut[30 + i * 7 : 60 + i * 11] = os.urandom(30)
        statuses.add(service.post(bytes(cut[: len(cut) - i * 50])).status_code)
    assert statuses <= {200, 413, 415, 422}
    assert {stage: replicas(stage) for stage in STAGES} == before
    answer = service.client.post("/v1/anonymize", content=bytes(service.config.serve.max_bytes + 10_000))
    assert answer.status_code == 413


def test_what_prometheus_finds(service: Running, photo: bytes) -> None:
    assert service.post(photo).status_code == 200
    assert service.post(b"no photo").status_code == 415
    wanted = {"requests_total", "request_seconds_bucket", "stage_seconds_bucket", "batch_faces_bucket",
              "epsilon_spent_total", "faces_total", "withheld_total"}  # fmt: skip
    found: set[str] = set()
    for _ in range(30):
        text = httpx.get(service.metrics).text
        found = {name for name in wanted if re.search(rf"^ray_anonymousnet_{name}\{{", text, re.M)}
        if found == wanted:
            break
        time.sleep(1)
    assert found == wanted
    assert 'route="/v1/anonymize"' in text
    assert 'stage="synthesize"' in text


def test_logs_name_nobody(service: Running, photo: bytes) -> None:
    assert service.post(photo, subject=SUBJECT).status_code == 200
    service.client.get("/v1/budget", params={"subject": SUBJECT})
    time.sleep(1)
    text = b"".join(path.read_bytes() for path in service.logs.rglob("*") if path.is_file())
    assert SUBJECT.encode() not in text
    assert service.secret.encode() not in text
    assert photo[200:300] not in text
    assert b"/v1/anonymize" in text
