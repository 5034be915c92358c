"""Keys that AWS keeps and the real server of the other tests does not: `..`, `//`, a leading slash."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from tests.seaweed import KEYS

from anonymousnet.pipelines import storage
from anonymousnet.pipelines.bulk_plan import select
from anonymousnet.pipelines.storage import Bucket, storage_of

NAMES = sorted(["../up.jpg", "x/../y.jpg", "/lead.jpg", "//two.jpg", "a//b.jpg", "./dot.jpg", "..", "a\n.jpg", "z/.."])
PAGE = 3


class Keeper(BaseHTTPRequestHandler):
    """Keeps any key, as AWS does; in memory, for anybody who asks."""

    protocol_version = "HTTP/1.1"
    server: KeeperServer

    def do_PUT(self) -> None:
        data, key = self.rfile.read(int(self.headers["Content-Length"] or 0)), self._key()
        if self.headers["If-None-Match"] == "*" and key in self.server.objects:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.objects[key] = data
        self._answer(200, b"", _tag(data))

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if "list-type" in asked:
            self._answer(200, self._listing(asked))
        elif self._key() in self.server.objects:
            data = self.server.objects[self._key()]
            self._answer(200, data, _tag(data))
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _listing(self, asked: dict[str, str]) -> bytes:
        after = asked.get("continuation-token") or asked.get("start-after", "")
        keys = sorted(k for k in self.server.objects if k.startswith(asked.get("prefix", "")) and k > after)
        page, more = keys[:PAGE], len(keys) > PAGE
        entries = "".join(
            f"<Contents><Key>{quote(k)}</Key><Size>{len(self.server.objects[k])}</Size>"
            f"<ETag>{_tag(self.server.objects[k])}</ETag></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{entries}</ListBucketResult>"
        ).encode()

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path.split("/", 2)[2])

    def _answer(self, status: int, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class KeeperServer(ThreadingHTTPServer):
    objects: dict[str, bytes]


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperServer]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    storage._client.cache_clear()
    server = KeeperServer(("127.0.0.1", 0), Keeper)
    server.objects = {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    storage._client.cache_clear()


def test_any_key_is_listed_read_and_written_as_it_is(keeper: KeeperServer) -> None:
    place = storage_of("s3://odd/in", f"http://127.0.0.1:{keeper.server_port}")
    assert isinstance(place, Bucket)
    for name in NAMES:
        assert place.create(name, name.encode())
        assert not place.create(name, b"other")
    assert keeper.objects == {f"in/{name}": name.encode() for name in NAMES}
    assert [entry.name for entry in place.scan()] == NAMES
    assert [entry.name for entry in place.scan(NAMES[3])] == NAMES[4:]
    assert {e.name: place.fetch(e.name, e.version).data.decode() for e in place.scan()} == {n: n for n in NAMES}
    assert {e.name for e in select(place, place.scan(), "photos")} == {n for n in NAMES if n.endswith(".jpg")}
