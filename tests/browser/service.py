"""The service as it is, in this process: its application over its deployments in Ray Serve's local mode."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl

import uvicorn
from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from anonymousnet.config import Config
from anonymousnet.serve.app import behind
from anonymousnet.serve.ingress import Service, application
from anonymousnet.serve.release_key import mark_of

SECRET = bytes(range(32))


class Watched:
    """An application that says what was asked of it, and takes its time when told to."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.delays: list[float] = []
        """Seconds that the next releases take longer, each its own."""
        self.asked: list[dict[str, float]] = []
        """Settings of every release, in order of arrival."""
        self.finished = 0
        """Releases that were made, whether or not anybody still waited for them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/v1/anonymize":
            await self.app(scope, receive, send)
            return
        self.asked.append({name: float(value) for name, value in parse_qsl(scope["query_string"].decode())})
        await asyncio.sleep(self.delays.pop(0) if self.delays else 0)
        await self.app(scope, receive, send)
        self.finished += 1


def applications(*configs: Config) -> list[ASGIApp]:
    """The application under each configuration, over the deployments of the first."""
    parts = behind(configs[0], mark_of(SECRET))
    handles = [
        serve.run(part, name=f"browser-{i}", route_prefix=None, _local_testing_mode=True)
        for i, part in enumerate(parts)
    ]
    return [application(Service(config, SECRET, *handles)) for config in configs]


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """An application behind uvicorn on a free port of loopback; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
