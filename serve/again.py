"""In every HTTP proxy: a request whose Ingress replica died is sent again, as calls between the stages are.

Ray Serve's proxy answers such a request with a 500 of its own, or with nothing, which its server makes a 500 of. What
may be sent twice without harm is: reading, and anonymizing, whose answer is a function of the request and whose replay
the ledger counts as 0.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPEATABLE = ("/v1/anonymize", "/v1/attributes")
"""Paths that may be posted to twice."""
PATIENCE_S = 30.0
"""So long after a request came it is sent again; a client of ours waits longer."""
PAUSE_S = 0.1
"""Before the second try; then twice as long each time."""
OURS = b"x-content-type-options"
"""A header of every answer that the service itself gave."""


class Again:
    """Keeps what was read of a request until its answer begins, and starts over where the proxy says 500 or 503."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _repeatable(scope):
            await self.app(scope, receive, send)
            return
        until, pause, read = time.monotonic() + PATIENCE_S, PAUSE_S, list[Message]()
        while True:
            last = time.monotonic() + pause > until
            attempt = _Attempt(read, receive, send, last)
            try:
                await self.app(dict(scope), attempt.receive, attempt.send)
            except Exception:
                if last or attempt.over:
                    raise
            else:
                if last or attempt.over:
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)


class _Attempt:
    """One pass of a request through the proxy."""

    def __init__(self, read: list[Message], receive: Receive, send: Send, last: bool) -> None:
        self._read, self._receive, self._send, self._last = read, receive, send, last
        self._next = 0
        self._begun, self._failed = False, False

    @property
    def over(self) -> bool:
        """Whether the answer is under way to the client, or the client has gone."""
        return self._begun or any(message["type"] == "http.disconnect" for message in self._read)

    async def receive(self) -> Message:
        """The request from its beginning: what an earlier attempt had read, then the rest."""
        if self._next == len(self._read):
            message = await self._receive()
            if self._begun:
                return message
            self._read.append(message)
        self._next += 1
        return self._read[self._next - 1]

    async def send(self, message: Message) -> None:
        """Pass the answer on, unless it says that the replica died."""
        if message["type"] == "http.response.start":
            self._failed = not self._last and _died(message)
            if not self._failed:
                self._begun = True
                self._read.clear()
                self._next = 0
        if not self._failed:
            await self._send(message)


def _repeatable(scope: Scope) -> bool:
    """The proxy's own health (/-/) is not asked again: what it says now is what load balancers want to know."""
    if scope["method"] in ("GET", "HEAD"):
        return not scope["path"].startswith("/-/")
    return bool(scope["path"].startswith(REPEATABLE))


def _died(start: Message) -> bool:
    """Whether the proxy speaks, and not the service; and not of too much work, which it answers with a time to wait."""
    names = {name.lower() for name, _ in start.get("headers", ())}
    return start["status"] in (500, 503) and OURS not in names and b"retry-after" not in names
