"""What bulk jobs ask of storage: pages, conditional puts, parts, patience with a server that has a bad day."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from tests.integration.conftest import S3Server

from anonymousnet.errors import ConfigError, StorageError
from anonymousnet.pipelines import jobs, storage
from anonymousnet.pipelines.bulk_publish import put_same
from anonymousnet.pipelines.s3 import open_to_strangers
from anonymousnet.pipelines.storage import PATIENT, Bucket, Folder, storage_of

ODD = ["a b.jpg", "ü/ł.jpg", "a+b&c=d.jpg", "deep/er/x.jpg", "z%20.jpg"]


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder | Bucket:
    storage._client.cache_clear()
    if request.param == "folder":
        return Folder(tmp_path)
    s3: S3Server = request.getfixturevalue("s3")
    with suppress(s3.client.exceptions.BucketAlreadyExists, s3.client.exceptions.BucketAlreadyOwnedByYou):
        s3.client.create_bucket(Bucket="odd")
    return Bucket("odd", f"{tmp_path.name}/", s3.endpoint)


def test_of_many_who_create_one_wins(place: Folder | Bucket) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: place.create("deep/one", str(i).encode()), range(8)))
    assert sum(won) == 1
    assert place.fetch("deep/one").data == str(won.index(True)).encode()


def test_the_same_bytes_are_no_conflict_and_others_are(place: Folder | Bucket) -> None:
    put_same(place, "one", b"same")
    put_same(place, "one", b"same")
    with pytest.raises(StorageError, match="holds other bytes than this job makes"):
        put_same(place, "one", b"other")


def test_swaps_are_refused_when_another_version_is_there(place: Folder | Bucket) -> None:
    first = place.swap("state", b"1", None)
    assert first
    assert place.swap("state", b"2", None) is None
    second = place.swap("state", b"22", first)
    assert second
    assert place.swap("state", b"3", first) is None
    assert place.fetch("state").data == b"22"


def test_listings_go_on_from_any_name(place: Folder | Bucket) -> None:
    for name in ODD:
        place.put(name, name.encode())
    listed = [entry.name for entry in place.scan()]
    assert sorted(listed) == sorted(ODD)
    for i, name in enumerate(listed):
        assert [entry.name for entry in place.scan(name)] == listed[i + 1 :]
    assert {entry.name: place.fetch(entry.name, entry.version).data.decode() for entry in place.scan()} == {
        name: name for name in ODD
    }
    old = next(entry for entry in place.scan() if entry.name == "a b.jpg")
    place.put("a b.jpg", b"changed since")
    with pytest.raises(FileNotFoundError):
        place.fetch("a b.jpg", old.version)


def test_listings_have_more_than_one_page(s3: S3Server) -> None:
    s3.client.create_bucket(Bucket="pages")
    names = [f"{i:05}" for i in range(1203)]
    place = Bucket("pages", "p/", s3.endpoint)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: place.put(name, b"x"), names))
    assert [entry.name for entry in place.scan()] == names


def test_a_bucket_that_strangers_can_read_is_known(s3: S3Server) -> None:
    s3.client.create_bucket(Bucket="open")
    place = Bucket("open", "audit/", s3.endpoint)
    place.put("x", b"x")
    assert not open_to_strangers(place)
    everybody = {"Effect": "Allow", "Principal": "*", "Action": ["s3:ListBucket", "s3:GetObject"],
                 "Resource": ["arn:aws:s3:::open", "arn:aws:s3:::open/*"]}  # fmt: skip
    s3.client.put_bucket_policy(Bucket="open", Policy=json.dumps({"Version": "2012-10-17", "Statement": [everybody]}))
    for _ in range(40):  # the server takes a while to heed it
        if shown := open_to_strangers(place):
            break
        time.sleep(0.25)
    assert shown


def test_large_objects_go_in_parts_and_appear_whole(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PART", 5 << 20)
    s3.client.create_bucket(Bucket="large")
    place, data = Bucket("large", "", s3.endpoint), bytes(range(256)) * (12 << 12)
    assert place.create("big.png", data, "image/png")
    assert place.fetch("big.png").data == data
    assert s3.client.head_object(Bucket="large", Key="big.png")["ContentType"] == "image/png"
    assert not place.create("big.png", data[::-1], "image/png")
    assert place.fetch("big.png").data == data
    assert not s3.client.list_multipart_uploads(Bucket="large").get("Uploads")


def test_encryption_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the protocol alone: the server of these tests has no keys to encrypt with."""
    client = boto3.session.Session().client("s3", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    monkeypatch.setattr(storage, "_client", lambda *_: client)
    sealed = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    with Stubber(client) as server:
        body = StreamingBody(io.BytesIO(b"x"), 1)
        server.add_response("get_object", {"Body": body, "ETag": "1", **sealed}, {"Bucket": "sealed", "Key": "in"})
        expected = {"Bucket": "sealed", "Key": "out", "Body": b"y", "IfNoneMatch": "*", "ContentType": "image/jpeg"}
        server.add_response("put_object", {}, {**expected, **sealed})
        place = Bucket("sealed", "", None)
        found = place.fetch("in")
        assert found.encryption == sealed
        assert place.create("out", b"y", "image/jpeg", found.encryption)


class Moody(BaseHTTPRequestHandler):
    """Passes requests on; some it refuses with 503, of some answers it sends half and hangs up."""

    server: MoodyServer
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen += 1
        if self.server.refuse > 0:
            self.server.refuse -= 1
            said = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
            self.send_response(503)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
            return
        there = http.client.HTTPConnection(self.server.behind, timeout=20)
        there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            there.putheader(name, value)
        there.endheaders(body)
        answer = there.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET" and self.server.cut > 0:
            self.server.cut -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class MoodyServer(ThreadingHTTPServer):
    behind, refuse, cut, seen = "", 0, 0, 0


@pytest.fixture
def moody(s3: S3Server) -> Iterator[MoodyServer]:
    server = MoodyServer(("127.0.0.1", 0), Moody)
    server.behind = urlsplit(s3.endpoint).netloc
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_slow_down_and_cut_connections_are_waited_out(moody: MoodyServer, s3: S3Server) -> None:
    s3.client.create_bucket(Bucket="moody")
    s3.client.put_object(Bucket="moody", Key="photo", Body=bytes(200_000))
    place = Bucket("moody", "", f"http://127.0.0.1:{moody.server_port}", PATIENT)
    moody.refuse = 4
    assert place.create("one", b"1", "text/plain")
    moody.refuse, moody.cut = 3, 2
    assert place.fetch("photo").data == bytes(200_000)
    assert moody.cut == moody.refuse == 0
    moody.refuse = 10**6
    with pytest.raises(StorageError, match="SlowDown.*try again later"):
        Bucket("moody", "", place.endpoint_url).fetch("photo")


def test_a_state_that_nobody_renews_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TTL", 0.4)
    audit = storage_of(str(tmp_path))
    dead = jobs.Hold(audit, "run")
    dead.take()
    living = jobs.Hold(audit, "run")
    living.take()
    dead.renew()
    assert dead.lost
    living.renew()
    assert not living.lost
    run = f"{'0' * 32}-{'1' * 8}"
    for name in ("run.json", ".DS_Store", f"{run}.json.tmp"):  # what is no job of ours is left alone
        audit.put(f"jobs/{name}", b"no job")
    audit.put(f"jobs/{run}.json", b"{}")
    jobs.Hold(audit, run).take()
    assert [job["state"] for job in jobs.list_jobs(audit)] == ["running"]
    assert jobs.show_job(audit, "00")["state"] == "running"
    with pytest.raises(ConfigError, match="found 0"):
        jobs.show_job(audit, "other")
