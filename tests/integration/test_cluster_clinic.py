"""`anonymousnet doctor --cluster` on a real cluster of three: one as it should be, one with other code, one that claims
a GPU it does not have."""

from __future__ import annotations

import json
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
    # Ray takes 127.0.0.1 for the host's own address, 127.0.0.2 and on as they are: all stays on loopback.
    at, small = "node_ip_address", {"num_cpus": 1, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={at: "127.0.0.2", "include_dashboard": False, **small})
    try:
        made.add_node(env_vars={"PYTHONPATH": str(other.parent)}, **{at: "127.0.0.3"}, **small)
        made.add_node(num_gpus=1, **{at: "127.0.0.4"}, **small)
        yield made.address
    finally:
        made.shutdown()


def test_each_machine_s_fault_is_named_with_its_remedy(cluster: str) -> None:
    done = CliRunner().invoke(main, ["doctor", "--cluster", cluster, "--bucket", "s3://b", "--endpoint-url",
                                     "http://127.0.0.1:9", "--json"])  # fmt: skip
    assert done.exit_code == 1, done.output
    checks = json.loads(done.output.splitlines()[-1])["checks"]
    assert checks[0]["found"].startswith("3 machines")
    failed = {c["name"]: c["found"] for c in checks if c["status"] == "fail" and not c["name"].endswith("bucket")}
    assert all(c["remedy"] for c in checks if c["status"] != "ok")
    assert set(failed) == {"127.0.0.3 code", "127.0.0.4 gpu"}
    assert "but other code" in failed["127.0.0.3 code"]
    assert "Ray was told of 1 GPUs, torch sees none" in failed["127.0.0.4 gpu"]
    assert sum(c["name"].endswith("bucket") and "cannot list s3://b" in c["found"] for c in checks) == 3
    assert sum(c["name"].endswith("weights") and c["status"] == "ok" for c in checks) == 3
    assert sum(c["name"].endswith("clock") and c["status"] == "ok" for c in checks) == 3
    assert sum(c["name"].endswith("store") and c["status"] == "warn" for c in checks) == 3


def test_a_head_that_cannot_be_reached_is_said() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = CliRunner().invoke(main, ["doctor", "--cluster", f"127.0.0.1:{port}"])
    assert done.exit_code == 2
    assert f"no Ray answers at 127.0.0.1:{port}" in done.output
    assert "check --address" in done.output
