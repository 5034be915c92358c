"""A real S3 server (SeaweedFS) on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "anonymous", "a-secret-for-tests"
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "another-secret"}
"""Credentials that may read and list, but not write."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens, and a client with every right. Its keys are in the environment (AWS_ACCESS_KEY_ID, ...)."""

    endpoint: str
    client: Any


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that enforces credentials; it and its keys live as long as the test session."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    folder = tmp_path_factory.mktemp("s3")
    master, volume, filer, port = _ports(4)
    (folder / "s3.json").write_text(json.dumps({"identities": [
        {"name": "admin", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]},
        {"name": "reader", "actions": ["Read", "List"], "credentials": [
            {"accessKey": READER["AWS_ACCESS_KEY_ID"], "secretKey": READER["AWS_SECRET_ACCESS_KEY"]}]},
    ]}))  # fmt: skip
    # Every bucket takes seven volumes at its first write: with 20 in all, the third one is refused ("internal error").
    command = [
        str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", "-volume.max=200", "-master.volumeSizeLimitMB=64", "-filer",
        f"-filer.port={filer}", "-s3", f"-s3.port={port}", f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # fixed ports otherwise, and tests run two servers at once
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in keys.items():
            environment.setenv(name, value)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        client = boto3.session.Session().client("s3", endpoint_url=endpoint)
        try:
            for left in range(120, -1, -1):  # it needs a few seconds to settle
                try:
                    client.create_bucket(Bucket="settled")
                    client.put_object(Bucket="settled", Key="probe", Body=b"probe")
                    break
                except (BotoCoreError, ClientError):
                    if not left or process.poll() is not None:
                        raise
                    time.sleep(0.5)
            yield S3Server(endpoint, client)
        finally:
            process.kill()  # a graceful end takes it ten seconds
            process.wait(30)


def _ports(count: int) -> list[int]:
    """Free ports whose number + 10000, where the server's gRPC goes, is free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1]) % 20_000 + 20_000
        if port not in found and all(_free(p) for p in (port, port + 10_000)):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
