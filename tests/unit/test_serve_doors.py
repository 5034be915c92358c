"""What the service starts with and who it lets in: ports, tokens, keys that change, calls that are not made again."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from anonymousnet import local_ray
from anonymousnet.config import Config
from anonymousnet.errors import ClusterError, ConfigError, PrivacyError
from anonymousnet.serve.calls import call
from anonymousnet.serve.gate import Gate
from anonymousnet.serve.keys import new_key, remove_key
from anonymousnet.serve.loopback import stay_on_loopback
from anonymousnet.serve.problems import Problem
from anonymousnet.serve.session import running


class Books:
    """A handle that is not called."""

    def options(self, **options: Any) -> Books:
        return self


def test_a_budget_that_comes_later_is_never_uncounted(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    free = f"Bearer {new_key(file, 'free')}"
    bare, counting = (
        Gate(Config.load(None, [f"serve.keys={file}", *more]), Books())  # type: ignore[arg-type]
        for more in ([], [f"release.ledger={tmp_path}/ledger.sqlite"])
    )
    poor = f"Bearer {new_key(file, 'poor', budget=5.0)}"
    assert [key and key.name for key in (bare.key(free), counting.key(free))] == ["free", "free"]
    with pytest.raises(Problem, match="keeps no ledger"):
        bare.key(poor)
    key = counting.key(poor)
    assert key is not None
    assert key.budget == 5.0
    remove_key(file, "free")
    for gate in (bare, counting):
        with pytest.raises(Problem):
            gate.key(free)


def test_a_port_in_use_is_told_before_ray_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("anonymousnet.serve.app.check", lambda config: None)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ClusterError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use; choose"),
            running(Config.load(None, [f"serve.port={port}"])),
        ):
            pass


def test_haproxy_needs_a_trusted_network(tmp_path: Path) -> None:
    keys = f"serve.keys={tmp_path}/keys.json"
    with pytest.raises(ConfigError, match="--trust-network"):
        Config.load(None, ["serve.haproxy=true", keys])
    assert Config.load(None, ["serve.haproxy=true", "serve.trust_network=true", keys]).serve.haproxy


def test_a_rays_token_and_sessions_are_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "made" / "auth_token"
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(local_ray.ONE_MACHINE, "1")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    folder = local_ray.keep_private()
    assert (folder.parent.stat().st_mode & 0o777, token.stat().st_mode & 0o777) == (0o700, 0o600)
    assert "RAY_AUTH_MODE" not in os.environ
    kept = token.read_bytes()
    token.chmod(0o644)  # as Ray writes it
    assert (local_ray.keep_private(), token.read_bytes(), token.stat().st_mode & 0o777) == (folder, kept, 0o600)
    folder.parent.chmod(0o755)
    with pytest.raises(PrivacyError, match="chmod 700"):
        local_ray.keep_private()


def test_serves_replicas_are_moved_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common import tls_utils

    monkeypatch.setattr(tls_utils, "add_port_to_grpc_server", lambda server, where: where)
    stay_on_loopback()
    assert tls_utils.add_port_to_grpc_server(None, "[::]:0") == "127.0.0.1:0"


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED])
def test_what_would_fail_again_is_not_tried_again(code: grpc.StatusCode) -> None:
    tries = list[int]()

    class Method:
        async def remote(self) -> None:
            tries.append(1)
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())

    with pytest.raises(grpc.aio.AioRpcError):
        asyncio.run(call(Method(), left_s=5))
    assert tries == [1]
