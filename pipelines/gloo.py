"""Gloo, speaking from the address that Ray knows a machine by.

By itself it takes the one that the machine's name resolves to: on many that is the loopback (Debian's 127.0.1.1), and
no other machine reaches it there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


@dataclass
class GlooConfig(TorchConfig):
    """Ray Train's set-up of torch.distributed, for CPUs."""

    backend: str | None = "gloo"

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(speak_from_rays_address)
        super().on_start(worker_group, backend_config)


def speak_from_rays_address() -> None:
    """Name its network interface to Gloo, unless somebody has named one."""
    here = ray.get_runtime_context().get_node_id()
    address = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == here)
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
