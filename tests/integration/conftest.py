"""A real S3 server (SeaweedFS) on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.seaweed import KEYS, READER, Seaweed

__all__ = ["READER", "S3Server"]
S3Server = Seaweed


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """An S3 server that enforces credentials; it and its keys live as long as the test session."""
    server = Seaweed(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in KEYS.items():
            environment.setenv(name, value)
        try:
            yield server.start()
        finally:
            server.kill()
