"""Connections of a proxy, below HTTP: how many there may be, and how long one may say nothing.

uvicorn, which Ray Serve's proxies listen with, waits for a request's head, and for a client who does not read, without
end, and Ray Serve passes none of its limits on. So the protocol that uvicorn takes by default is replaced by this one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

PER_ADDRESS = 256
"""Connections from one address, at most."""
ALL = 2048
"""Connections from everywhere, at most."""
HEAD_S = 5.0
"""Within it the head of a request must be there, once the connection is open or the head has begun."""
UNREAD_S = 10.0
"""So long a client may leave an answer where it is."""
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def install() -> None:
    """Have the uvicorn of this process, where it is not told otherwise, take this protocol."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:Listener"


class Listener(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """One connection.

    Where there are too many, the oldest that waits for its client (for a head, for a body, for the next request) makes
    room for the new one: who holds connections open, or sends half a request, loses them, and who asks is served, even
    from the same address. Where all are being answered, the new one is refused.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        mine = [one for one in self.connections if one.client and self.client and one.client[0] == self.client[0]]
        if len(mine) > PER_ADDRESS or len(self.connections) > ALL:
            self._make_room(mine if len(mine) > PER_ADDRESS else list(self.connections))
        if not transport.is_closing():
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head, self._unread):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way, as far as its head is here."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn."""
        return self.idle or bool(self.cycle.more_body)

    def _make_room(self, crowd: list[Any]) -> None:
        waiting = [one for one in crowd if one is not self and one.waits]
        if waiting:
            oldest = min(waiting, key=lambda one: one._since)
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            self.transport.write(BUSY)
            self.transport.close()

    def _expect_head(self) -> None:
        """Start the time for a head where one is to come, and end it where it has come."""
        if not self.idle:
            if self._head is not None:
                self._head.cancel()
                self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._late)

    def _late(self) -> None:
        self._head = None
        if self.idle and not self.transport.is_closing():
            self.transport.close()

    def _expect_reading(self) -> None:
        """End the connection where none of what is written leaves it for UNREAD_S."""
        before = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() >= before:
                self.transport.abort()
            else:
                self._expect_reading()

        self._unread = self.loop.call_later(UNREAD_S, look)
