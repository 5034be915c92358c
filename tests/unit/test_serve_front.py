"""The layer before everything: what it refuses, what it hands on, and when. Without Ray; the listener on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from ray.serve._private import constants
from starlette.types import Receive, Scope, Send

from anonymousnet.config import Config
from anonymousnet.errors import ConfigError
from anonymousnet.serve import front, listener
from anonymousnet.serve.front import ENVIRONMENT, Front, Settings, encode_settings, middlewares
from anonymousnet.serve.keys import new_key
from anonymousnet.serve.pace import Pace

MOST = 1000
OWN = {"host": "127.0.0.1:8000"}


class Inner:
    """The service behind the layer: what came to it, and an answer to all."""

    def __init__(self, status: int = 200, wait: asyncio.Event | None = None) -> None:
        self.status, self.wait = status, wait
        self.came: list[tuple[str, bytes]] = []
        self.headers: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        self.came.append((scope["path"], message["body"]))
        self.headers.append(dict(scope["headers"]))
        if self.wait is not None:
            await self.wait.wait()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})


class Client:
    """Asks the layer. `parts`: the body; after the last of them the client says nothing more."""

    def __init__(self, app: Front, secret: str | None = None) -> None:
        self.app, self.secret = app, secret
        self.read = 0
        self.answer: dict[str, Any] = {}
        self.closes = False

    async def ask(
        self, path: str, parts: tuple[bytes, ...] = (), method: str = "POST", length: int | None = None, **headers: str
    ) -> int:
        """The status of the answer; 0: none."""
        sent = OWN | {name.replace("_", "-"): value for name, value in headers.items()}
        if parts:
            sent["content-length"] = str(sum(map(len, parts)) if length is None else length)
        if self.secret:
            sent["authorization"] = f"Bearer {self.secret}"
        rest, complete = list(parts), length is None or length == sum(map(len, parts))
        status, body = 0, b""

        async def receive() -> dict[str, Any]:
            if not rest:
                await asyncio.sleep(60)
            part = rest.pop(0)
            self.read += len(part)
            return {"type": "http.request", "body": part, "more_body": bool(rest) or not complete}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
                self.closes = (b"connection", b"close") in message["headers"]
            body += message.get("body", b"")

        scope = {"type": "http", "method": method, "path": path,
                 "headers": [(name.encode(), value.encode()) for name, value in sent.items()]}  # fmt: skip
        await self.app(scope, receive, send)
        self.answer = json.loads(body) if status >= 400 and body else {}
        return status


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """A file of keys, and a key in it."""
    return str(tmp_path / "keys.json"), new_key(tmp_path / "keys.json", "acme")


def before(inner: Inner, keys: str | None = None, deadline_s: float = 5.0) -> Front:
    return Front(inner, Settings(keys, MOST, deadline_s))  # type: ignore[arg-type]


def test_the_key_comes_before_the_body(keys: tuple[str, str]) -> None:
    inner = Inner()
    app = before(inner, keys[0])
    for path in front.KEY_ROUTES:
        for wrong in (None, "an_acme_guess", "x" * 3000):
            client = Client(app, wrong)
            assert asyncio.run(client.ask(path, (b"x" * 10,), length=10**9, expect="100-continue")) == 401
            assert (client.read, client.closes) == (0, True)
    assert (inner.came, app.held) == ([], 0)
    assert asyncio.run(Client(app, keys[1]).ask("/v1/anonymize", (b"ab", b"cd"))) == 200
    assert inner.came == [("/v1/anonymize", b"abcd")]


def test_who_sends_with_a_wrong_key_gets_the_answer(keys: tuple[str, str]) -> None:
    client = Client(before(Inner(), keys[0]))
    assert asyncio.run(client.ask("/v1/anonymize", (b"x" * 500,) * 4, length=2000)) == 401
    assert (client.read, client.closes) == (2000, True)  # taken and thrown away, so that the answer is not lost
    assert client.answer["request_id"]


def test_sizes_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "SMALL_S", 0.05)
    monkeypatch.setattr(front, "LINGER_S", 0.05)
    inner = Inner()
    app = before(inner, deadline_s=0.2)
    cases = [
        ("/v1/anonymize", (b"x",), MOST + front.FORM_BYTES + 1, 413),
        ("/v1/anonymize", (b"x" * 4000,) * 2, None, 413),  # whatever it says of its length
        ("/v1/jobs", (b"x" * (front.SMALL_BYTES + 1),), None, 413),
        ("/v1/turing/tests", (b"x",), 100, 408), ("/v1/anonymize", (b"x",), 100, 408),
    ]  # fmt: skip
    for path, parts, length, status in cases:
        client = Client(app)
        assert asyncio.run(client.ask(path, parts, length=length)) == status, path
        assert client.closes
    assert (inner.came, app.held, app.under_way) == ([], 0, 0)
    assert asyncio.run(Client(app).ask("/v1/anonymize", (b"x" * MOST,))) == 200
    assert asyncio.run(Client(app).ask("/v1/policy", method="GET")) == 200


def test_a_client_that_leaves_costs_nothing() -> None:
    inner = Inner()
    app = before(inner)
    sent = list[Any]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/anonymize",
             "headers": [(b"host", b"localhost"), (b"content-length", b"7")]}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert (sent, inner.came, app.held) == ([], [], 0)


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({}, "POST", 200),
        ({"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"}, "POST", 200),
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, "GET", 200),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, "GET", 200),  # a link is followed
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, "POST", 403),  # a form is sent
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, "POST", 403),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, "GET", 403),  # another port of this machine
        ({"origin": "http://evil.example"}, "POST", 403),
        ({"origin": "http://127.0.0.1:9000"}, "POST", 403),
        ({"origin": "null"}, "POST", 403),
        ({"host": "evil.example:8000"}, "POST", 421),
    ],
)
def test_pages_of_other_sites_spend_nothing_where_there_are_no_keys(
    headers: dict[str, str], method: str, status: int, keys: tuple[str, str]
) -> None:
    inner = Inner()
    assert asyncio.run(Client(before(inner)).ask("/v1/anonymize", (b"x",), method, **headers)) == status
    assert len(inner.came) == (status == 200)
    assert (
        asyncio.run(Client(before(Inner(), keys[0]), keys[1]).ask("/v1/anonymize", (b"x",), method, **headers)) == 200
    )


def test_headers_that_steer_ray_do_not_reach_it() -> None:
    ray = {"x-request-id": "forged", "x-request-timeout-seconds": "-1",
           "x-request-disconnect-disabled": "?1", "Serve-Multiplexed-Model-Id": "x"}  # fmt: skip
    theirs = (constants.SERVE_HTTP_REQUEST_ID_HEADER, constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
              constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER, constants.SERVE_MULTIPLEXED_MODEL_ID,
              constants.SERVE_SESSION_ID)  # fmt: skip
    for name in theirs:
        assert front.plain(name.encode()) in front.INNER, name
    inner = Inner()
    asyncio.run(Client(before(inner)).ask("/v1/anonymize", (b"x",), **{k.replace("-", "_"): v for k, v in ray.items()}))
    (got,) = inner.headers
    assert set(got) == {b"host", b"content-length", b"x-request-id"}
    assert got[b"x-request-id"] != b"forged"


def test_overload_is_told_at_once() -> None:
    async def crowd() -> tuple[list[int], dict[str, Any]]:
        gate = asyncio.Event()
        app = before(Inner(wait=gate), deadline_s=30)
        app.pace._busy_s, app.pace._answered = 10.0, 10.0  # a photo a second
        asked = [asyncio.create_task(Client(app).ask("/v1/anonymize", (b"x",))) for _ in range(50)]
        await asyncio.sleep(0.1)
        done = [task.result() for task in asked if task.done()]
        late = Client(app)
        assert await late.ask("/v1/anonymize", (b"x",)) == 503
        gate.set()
        await asyncio.gather(*asked)
        assert app.under_way == app.held == 0
        return done, late.answer

    done, answer = asyncio.run(crowd())
    assert done == [503] * (50 - front.ALWAYS)
    assert answer["type"].endswith("busy")


def test_bodies_that_are_held_are_bounded() -> None:
    async def crowd() -> list[int]:
        gate = asyncio.Event()
        app = before(Inner(wait=gate))
        parts = (b"x" * (MOST + front.FORM_BYTES),)
        asked = [asyncio.create_task(Client(app).ask("/v1/anonymize", parts)) for _ in range(front.PHOTOS_HELD + 4)]
        await asyncio.sleep(0.1)
        gate.set()
        return sorted(await asyncio.gather(*asked))

    assert asyncio.run(crowd()) == [200] * front.PHOTOS_HELD + [503] * 4


def test_pace_is_the_time_of_a_photo_while_any_is_under_way() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.wait_s == 0
    for _ in range(100):  # two at a time, each in two seconds, and a pause that does not count
        pace.begin()
        pace.begin()
        now[0] += 2
        pace.end(True)
        pace.end(True)
        now[0] += 50
    assert pace.wait_s == pytest.approx(1, rel=0.1)
    pace.begin()
    now[0] += 10
    pace.end(False)  # gave up: the time counts, the photo does not
    assert pace.wait_s > 1.4


def test_proxies_know_the_settings_or_do_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(ConfigError, match="ANONYMOUSNET_FRONT: expected the service's settings"):
        middlewares()
    monkeypatch.setenv(ENVIRONMENT, encode_settings(Config.load(None, ["serve.max_bytes=123"]).serve))
    last = middlewares()[-1]
    assert (last.cls, last.kwargs["settings"]) == (Front, Settings(None, 123, 30.0))
    monkeypatch.setenv(ENVIRONMENT, "{}")
    with pytest.raises(ConfigError):
        middlewares()


@contextmanager
def listening(app: Any) -> Iterator[tuple[str, int]]:
    """An application behind uvicorn as a proxy of Ray Serve's has it."""
    listener.install()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_keep_alive=90)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        assert config.http_protocol_class is listener.Listener
        try:
            yield sock.getsockname()
        finally:
            server.should_exit = True
            thread.join(10)


def answered(where: tuple[str, int]) -> bool:
    """Whether a new client gets a page."""
    with socket.create_connection(where, 5) as client:
        client.sendall(b"GET /v1/policy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 200")


def over(client: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    client.settimeout(0.02)
    try:
        while client.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"GET / HTTP/1.1\r\nHos", b"POST /v1/anonymize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
        b"GET /v1/policy HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "kept alive"],
)  # fmt: skip
def test_connections_that_wait_make_room(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PER_ADDRESS", 10)
    with listening(before(Inner())) as where, ExitStack() as stack:
        held = []
        for _ in range(30):
            held.append(stack.enter_context(socket.create_connection(where, 1)))
            held[-1].sendall(sent)
            time.sleep(0.01)
        assert all(answered(where) for _ in range(5))
        ended = [over(one) for one in held]
        assert ended == sorted(ended, reverse=True)  # the oldest first
        assert 20 <= sum(ended) <= 26


def test_a_connection_is_refused_where_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PER_ADDRESS", 3)

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with listening(never) as where, ExitStack() as stack:
        for _ in range(3):
            one = stack.enter_context(socket.create_connection(where, 5))
            one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        one = stack.enter_context(socket.create_connection(where, 5))
        assert one.recv(1000) == listener.BUSY
        assert one.recv(1000) == b""


def test_heads_and_readers_are_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_S", 0.2)
    monkeypatch.setattr(listener, "UNREAD_S", 0.2)

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": os.urandom(1 << 20) * 30})

    with listening(large) as where:
        with socket.create_connection(where, 5) as slow:
            started = time.monotonic()
            slow.sendall(b"GET / HTTP/1.1\r\nHos")
            assert slow.recv(10) == b""
            assert 0.1 < time.monotonic() - started < 2
        with socket.create_connection(where, 5) as reader:
            reader.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(1)
            got = 0
            with suppress(ConnectionResetError):
                while part := reader.recv(1 << 20):
                    got += len(part)
            assert got < 29 << 20  # the rest was given up
