"""`anonymousnet doctor --cluster` on a real cluster of three: one as it should be, one with other code, one that claims
a GPU it does not have."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from anonymousnet.cluster.cli import main

PACKAGE = Path(__file__).resolve().parents[2] / "platform" / "anonymousnet"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ray.cluster_utils import Cluster

    other = tmp_path_factory.mktemp("other") / "anonymousnet"
    other.mkdir()
    for part in PACKAGE.iterdir():
        (other / part.name).symlink_to(part.resolve())
    (other / "__init__.py").unlink()
    (other / "__init__.py").write_text((PACKAGE / "__init__.py").read_text() + "# another build\n")
    (other / "weights").unlink()
    (other / "weights").mkdir()
    for part in (PACKAGE / "weights").iterdir():
        (other / "weights" / part.name).symlink_to(part)
    small = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.1"}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **small})
    try:
        made.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other.parent)}, **small)
        made.add_node(num_cpus=1, num_gpus=1, **small)
        yield made.address
    finally:
        made.shutdown()


def test_each_machine_s_fault_is_named_with_its_remedy(cluster: str) -> None:
    done = CliRunner().invoke(main, ["doctor", "--cluster", cluster, "--bucket", "s3://b", "--endpoint-url",
                                     "http://127.0.0.1:9", "--json"])  # fmt: skip
    assert done.exit_code == 1, done.output
    checks = json.loads(done.output.splitlines()[-1])["checks"]
    assert checks[0]["found"].startswith("3 machines")
    failed = {(c["name"].split()[-1], c["found"]) for c in checks if c["status"] == "fail"}
    assert all(c["remedy"] for c in checks if c["status"] != "ok")
    code = [found for part, found in failed if part == "code"]
    assert len(code) == 1
    assert "but other code" in code[0]
    gpu = [found for part, found in failed if part == "gpu"]
    assert len(gpu) == 1
    assert "Ray was told of 1 GPUs, torch sees none" in gpu[0]
    assert sum(c["name"].endswith("bucket") and "no answer" in c["found"] for c in checks) == 3
    assert sum(c["name"].endswith("weights") and c["status"] == "ok" for c in checks) == 3
    assert sum(c["name"].endswith("clock") and c["status"] == "ok" for c in checks) == 3
    assert sum(c["name"].endswith("store") and c["status"] == "warn" for c in checks) == 3


def test_a_head_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "RAY_gcs_rpc_server_connect_timeout_s", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = CliRunner().invoke(main, ["doctor", "--cluster", f"127.0.0.1:{port}"])
    assert done.exit_code == 2
    assert f"no Ray answers at 127.0.0.1:{port}" in done.output
    assert "check --address" in done.output
