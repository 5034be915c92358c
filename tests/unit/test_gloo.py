"""Which network interface Gloo is told to speak from."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from anonymousnet.pipelines import gloo


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that Ray knows as 10.0.0.7, which is its second interface's."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(gloo.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "b"))
    nodes = [{"NodeID": "a", "NodeManagerAddress": "10.0.0.6"}, {"NodeID": "b", "NodeManagerAddress": "10.0.0.7"}]
    monkeypatch.setattr(gloo.ray, "nodes", lambda: nodes)
    addresses: dict[str, Any] = {"lo": ["127.0.0.1"], "eth0": ["fe80::1", "10.0.0.7"]}
    monkeypatch.setattr(
        gloo.psutil, "net_if_addrs",
        lambda: {name: [SimpleNamespace(address=one) for one in found] for name, found in addresses.items()},
    )  # fmt: skip
    return monkeypatch


def test_the_interface_with_rays_address(machine: pytest.MonkeyPatch) -> None:
    gloo.speak_from_rays_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"


def test_what_the_operator_named_stays(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("GLOO_SOCKET_IFNAME", "ib0")
    gloo.speak_from_rays_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
