"""A real S3 server (SeaweedFS) on loopback that enforces credentials; it can be killed and started again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

KEYS = {
    "AWS_ACCESS_KEY_ID": "anonymous", "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests", "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "another-secret"}
"""Credentials that may read and list, but not write."""


class Seaweed:
    """The server over one folder; `client` has every right. `logged`: every request goes to FOLDER/log."""

    def __init__(self, folder: Path, logged: bool = False) -> None:
        import boto3

        self.folder, self.log = folder, folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        ports = folder / "ports.json"  # its data knows them: a server that goes on with it must have the same
        if not ports.exists():
            ports.write_text(json.dumps(_ports(4)))
        master, volume, filer, port = json.loads(ports.read_text())
        (folder / "s3.json").write_text(json.dumps({"identities": [
            {"name": "admin", "credentials": [_pair(KEYS)], "actions": ["Admin"]},
            {"name": "reader", "credentials": [_pair(READER)], "actions": ["Read", "List"]},
        ]}))  # fmt: skip
        files = "s3api_object_handlers=3,s3api_object_handlers_put=3"
        # Every bucket takes seven volumes at its first write: with 20, the third one is refused ("internal error").
        self._command = [
            str(Path(sys.executable).with_name("weed")), "-logtostderr=true",
            *([f"-vmodule={files}"] if logged else []), "server", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-master.port={master}",
            f"-volume.port={volume}", "-volume.max=200", "-master.volumeSizeLimitMB=64", "-filer",
            f"-filer.port={filer}", "-s3", f"-s3.port={port}", f"-s3.config={folder}/s3.json",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # fixed ports otherwise, and tests run two servers at once
        ]  # fmt: skip
        self.endpoint = f"http://127.0.0.1:{port}"
        key, secret, region = KEYS.values()
        self.client: Any = boto3.session.Session().client(
            "s3", region, endpoint_url=self.endpoint, aws_access_key_id=key, aws_secret_access_key=secret
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Seaweed:
        """Start it, or start it again, and wait until it answers: it needs a few seconds to settle."""
        from botocore.exceptions import BotoCoreError, ClientError

        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)
        for left in range(240, -1, -1):
            try:
                self.bucket("settled")
                self.client.put_object(Bucket="settled", Key="probe", Body=b"probe")
                break
            except (BotoCoreError, ClientError):
                if not left or self._process.poll() is not None:
                    raise
                time.sleep(0.5)
        return self

    def bucket(self, name: str) -> None:
        """Make a bucket, unless it is there."""
        with suppress(self.client.exceptions.BucketAlreadyOwnedByYou):
            self.client.create_bucket(Bucket=name)

    def kill(self) -> None:
        """End it with SIGKILL: a graceful end takes it ten seconds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)


def _pair(keys: dict[str, str]) -> dict[str, str]:
    return {"accessKey": keys["AWS_ACCESS_KEY_ID"], "secretKey": keys["AWS_SECRET_ACCESS_KEY"]}


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
