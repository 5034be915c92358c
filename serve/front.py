"""The layer before everything, in every HTTP proxy: whose request it is, then its body, and only then the service.

In this order a request is held against: what the process can take; the name it was asked by and the page that asks
(where there are no keys); the key (where there are); the size and the time of its body. A request that is refused costs
its head. What goes on is whole, so that no replica ever waits for a client. Ray Serve's proxies put this layer around
themselves (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), and read its settings from the environment.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anonymousnet.config_serve import ServeConfig
from anonymousnet.errors import ConfigError
from anonymousnet.serve import listener
from anonymousnet.serve.again import Again
from anonymousnet.serve.body import FORM_BYTES
from anonymousnet.serve.gate import key_of
from anonymousnet.serve.keys import Keys
from anonymousnet.serve.metrics import Metrics
from anonymousnet.serve.pace import Pace
from anonymousnet.serve.problems import Problem

ENVIRONMENT = "ANONYMOUSNET_FRONT"
"""Where the proxies find the settings, as `encode_settings` writes them."""
PHOTO_ROUTES = ("/v1/anonymize", "/v1/attributes")
KEY_ROUTES = (*PHOTO_ROUTES, "/v1/budget", "/v1/jobs", "/v1/turing/results")
"""Beginnings of the paths for which a key is needed where there are any."""
PROXY = "/-/"
"""Beginning of the paths that Ray Serve's proxy answers by itself: its health and its routes."""
HEALTH = (PROXY, "/v1/health/")
SMALL_BYTES, SMALL_S = 64 << 10, 5.0
"""Largest body of all other requests, and how long it may take."""
UNDER_WAY = 256
"""Requests under way in one proxy, at most; one more is refused at once."""
ALWAYS, IN_TIME = 32, 0.75
"""So many photos are always taken; of more, only what should be answered within this share of the deadline."""
PHOTOS_HELD = 16
"""Bodies that one proxy holds, at most, counted in photos of the largest size."""
LINGER_BYTES, LINGER_S = 1 << 20, 1.0
"""So much of a refused body is still taken, and thrown away: a connection that is closed on a client who is writing
takes the answer with it."""
INNER = {b"x-request-id", b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve-multiplexed-model-id",
         b"x-session-id"}  # fmt: skip
"""Headers that steer Ray Serve: a client's own never reach it. With them one could wait, or be computed for, without
end, or write into logs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the layer needs to know of the configuration."""

    keys: str | None
    """File of API keys, or None: whoever reaches the port may use it."""
    max_bytes: int
    """Of a photo."""
    deadline_s: float
    """For a photo's body."""


def encode_settings(settings: ServeConfig) -> str:
    """The settings, for the environment of the proxies."""
    keys = None if settings.keys is None else str(settings.keys)
    return json.dumps(asdict(Settings(keys, settings.max_bytes, settings.deadline_s)))


def middlewares() -> list[Middleware]:
    """What Ray Serve's proxies put around themselves: the last is the outermost. Raises ConfigError."""
    try:
        settings = Settings(**json.loads(os.environ[ENVIRONMENT]))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{ENVIRONMENT}: expected the service's settings, got {error!r}; start the service with `anonymousnet "
            "serve`, or with the environment that `anonymousnet cluster render` writes"
        ) from error
    listener.install()
    return [Middleware(Again), Middleware(Front, settings=settings)]


class Front:
    """Refuses early, and hands whole requests on."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Raises ConfigError where the keys do not read."""
        self.app, self.settings = app, settings
        self.keys = Keys(Path(settings.keys)) if settings.keys else None
        self.under_way, self.held = 0, 0
        self.pace, self.metrics = Pace(), Metrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # there is none
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = uuid.uuid4().hex
        others = [(name, value) for name, value in scope["headers"] if plain(name) not in INNER]
        headers = dict(others)
        body, started = _Body(self, receive), time.perf_counter()
        try:
            self._check(scope, headers)
            await body.read(headers, *self._bounds(scope["path"]))
            ours = {**scope, "headers": [*others, (b"x-request-id", identity.encode())]}
            await self._hand_on(ours, body, send)
        except Problem as problem:
            self.metrics.answered("front", problem.status, time.perf_counter() - started)
            await _refuse(problem, identity, scope, headers, body, send)
        except _Gone:
            pass
        finally:
            body.release()

    async def _hand_on(self, scope: Scope, body: _Body, send: Send) -> None:
        self._check_room(scope["path"])  # once more: many bodies may have come together
        photo, status = scope["path"] in PHOTO_ROUTES, 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self.under_way += 1
        if photo:
            self.pace.begin()
        try:
            await self.app(scope, body.again, watched)
        finally:
            self.under_way -= 1
            if photo:
                self.pace.end(200 <= status < 500)

    def _check_room(self, path: str) -> None:
        """Raise Problem where this process, or the service behind it, has too much to do: not to say that it lives."""
        if path.startswith(HEALTH):
            return
        wait_s = self.pace.wait_s
        slow = self.pace.under_way >= ALWAYS and wait_s > IN_TIME * self.settings.deadline_s
        if self.under_way >= UNDER_WAY or (path in PHOTO_ROUTES and slow):
            raise Problem("busy", headers={"Retry-After": str(max(1, math.ceil(wait_s)))})

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """Raise Problem for what is refused by its head alone."""
        self._check_room(scope["path"])
        if scope["path"].startswith(PROXY):
            return
        if self.keys is None:
            check_page(scope["method"], headers)
        elif scope["path"].startswith(KEY_ROUTES):
            key_of(self.keys, headers.get(b"authorization", b"").decode("latin-1"))

    def _bounds(self, path: str) -> tuple[int, float]:
        """Most bytes and seconds of a request's body."""
        if path in PHOTO_ROUTES:
            return self.settings.max_bytes + FORM_BYTES, self.settings.deadline_s
        return SMALL_BYTES, SMALL_S


class _Body:
    """A request's body, in memory, within a size and a time."""

    def __init__(self, front: Front, receive: Receive) -> None:
        self._front, self._receive = front, receive
        self._read: list[bytes] = []
        self._size, self._told = 0, False
        self.whole = False

    async def read(self, headers: Mapping[bytes, bytes], most: int, seconds: float) -> None:
        """Take all of it. Raises Problem, or _Gone where the client has left."""
        declared = headers.get(b"content-length", b"")
        if not declared and b"transfer-encoding" not in headers:
            self.whole = True
            return
        if declared.isdigit() and int(declared) > most:
            raise Problem("too-large", f"the limit is {most} bytes")
        try:
            async with asyncio.timeout(seconds):
                while not self.whole:
                    self._take(await self.next(), most)
        except TimeoutError:
            raise Problem("slow-body", f"it took more than {seconds:g} s") from None

    async def next(self) -> bytes:
        """The next part of it. Raises _Gone."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        self.whole = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    def _take(self, part: bytes, most: int) -> None:
        self._size += len(part)
        self._front.held += len(part)
        if self._size > most:
            raise Problem("too-large", f"the limit is {most} bytes")
        if self._front.held > PHOTOS_HELD * (self._front.settings.max_bytes + FORM_BYTES):
            raise Problem("busy")
        self._read.append(part)

    def release(self) -> None:
        """It counts as held until its request is answered: until then copies of it are with the replicas."""
        self._read.clear()
        self._front.held -= self._size
        self._size = 0

    async def again(self) -> Message:
        """The ASGI callable of the service: all of it in one message, then what the client does."""
        if self._told:
            return await self._receive()
        self._told = True
        whole = b"".join(self._read)
        self._read.clear()
        return {"type": "http.request", "body": whole, "more_body": False}


def plain(name: bytes) -> bytes:
    """A header's name as Ray compares it, to which `_` and `-` are the same."""
    return name.lower().replace(b"_", b"-")


class _Gone(Exception):
    """The client has left."""


async def _refuse(
    problem: Problem, identity: str, scope: Scope, headers: Mapping[bytes, bytes], body: _Body, send: Send
) -> None:
    """Answer, and take a little more of a body that is still on its way."""
    body.release()
    unread = not body.whole and (b"content-length" in headers or b"transfer-encoding" in headers)
    if unread:
        problem.headers["Connection"] = "close"
    problem.headers |= {"X-Request-ID": identity, "X-Content-Type-Options": "nosniff"}
    answer = problem.response(identity)
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body if scope["method"] != "HEAD" else b"",
                "more_body": unread})  # fmt: skip
    if not unread:
        return
    if b"expect" not in headers:  # who asks before sending has sent nothing
        taken = 0
        with suppress(TimeoutError, _Gone):
            async with asyncio.timeout(LINGER_S):
                while not body.whole and taken < LINGER_BYTES:
                    taken += len(await body.next())
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def check_page(method: str, headers: Mapping[bytes, bytes]) -> None:
    """Raise Problem where a service without keys is asked by another name, or by another site's page.

    Without keys, whoever reaches the port may use it, and every page that this machine's browser shows can reach it.
    Such a page asks from another origin, which browsers say (Sec-Fetch-Site; Origin); or it has its own name resolve to
    127.0.0.1 (DNS rebinding), which Host says. A link to the service may be followed.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if not _on_loopback(host):
        raise Problem("bad-host")
    followed = method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
    site = headers.get(b"sec-fetch-site", b"none")
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if (site not in (b"none", b"same-origin") and not followed) or (origin and origin.partition("://")[2] != host):
        raise Problem("foreign-page")


def _on_loopback(host: str) -> bool:
    """Whether a Host header names this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
