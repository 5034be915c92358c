"""How large a cluster is, and the configuration that goes with it.

    size = Size.parse("4x8", gpu="h100")         # 4 machines with 8 GPUs each; also small, medium, large
    config = fitted(config, size, task)          # its nulls filled from the size; what contradicts it is refused
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from anonymousnet.config import Config
from anonymousnet.errors import ConfigError

NAMED = {"small": "1x1", "medium": "1x8", "large": "4x8"}
"""Sizes that files are shipped for."""
CPUS_PER_WORKER = 4
"""On machines without GPUs, one training process per so many CPUs."""
API_KEYS = "/etc/anonymousnet-api/keys.json"
"""Where a pod finds the endpoint's API keys: the Secret anonymousnet-api."""
HEAD = "m7i.xlarge"
"""The head's machine: it holds the cluster's memory and the drivers, and does no work."""


@lru_cache
def machines() -> dict[str, Any]:
    """What is known of GPUs and of AWS's machines, by name."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("machines.json").read_text())
    return found


@dataclass(frozen=True, slots=True)
class Size:
    """Machines of one kind, beside a head."""

    name: str
    nodes: int
    gpus: int
    """Of each machine."""
    gpu: str
    """Kind of GPU, by its name in machines.json; `none` without."""
    cpus: int
    memory_gib: int
    instance: str
    """AWS's machine of that kind."""

    @classmethod
    def parse(cls, text: str, gpu: str = "l4") -> Self:
        """`small`, `medium`, `large`, or NODESxGPUS; 0 GPUs: machines without. Raises ConfigError."""
        match = re.fullmatch(r"([1-9]\d{0,3})x(\d{1,2})", NAMED.get(text, text))
        if match is None:
            raise ConfigError(
                f"no size '{text}'; expected one of {', '.join(NAMED)}, or NODESxGPUS such as 4x8 (0 GPUs: 2x0)"
            )
        nodes, gpus = int(match[1]), int(match[2])
        known = machines()["gpus"]
        if gpu not in known:
            raise ConfigError(f"no GPU '{gpu}'; expected one of {', '.join(sorted(known))}")
        kind = "none" if gpus == 0 else gpu
        fitting = known[kind]["aws"]
        if str(gpus) not in fitting:
            raise ConfigError(
                f"size {text}: AWS has no machine with {gpus} x {known[kind]['name']}; it has them with "
                f"{', '.join(fitting)} (GPUs of one machine; 0 for none): take another size or --gpu"
            )
        instance = fitting[str(gpus)]
        found = machines()["aws"][instance]
        return cls(text, nodes, gpus, kind, found["cpus"], found["memory_gib"], instance)

    @property
    def workers(self) -> int:
        """Training processes: one per GPU, or per CPUS_PER_WORKER CPUs."""
        return self.nodes * (self.gpus or self.cpus // CPUS_PER_WORKER)


def fitted(config: Config, size: Size, task: str = "attributes") -> Config:
    """The configuration for this size: what nobody set follows from it.

    Raises ConfigError where what somebody set needs another size.
    """
    from anonymousnet.training.tasks import task_named

    kind = task_named(task)
    given = config.model_dump(exclude_unset=True)
    scale = {
        "workers": size.workers, "gpus_per_worker": float(size.gpus > 0), "nodes": size.nodes,
        "zero": min(1 if size.nodes == 1 else 2, kind.max_zero_stage),
        "failures": 5 * size.nodes, "deadline_s": 1800.0,
    }  # fmt: skip
    scale |= {key: value for key, value in given.get("scale", {}).items() if value is not None}
    train = {"batch": kind.defaults["batch"] * scale["workers"]}
    train |= {key: value for key, value in given.get("train", {}).items() if value is not None}
    device = {"device": "cuda" if size.gpus else "cpu"} if config.device == "auto" else {}
    serve = _serving(config.serve.model_dump(), given.get("serve", {}), size)
    found = Config.model_validate({**given, **device, "serve": serve, "scale": scale, "train": train})
    _check(found, size)
    return found


def _serving(all_settings: dict[str, Any], given: dict[str, Any], size: Size) -> dict[str, Any]:
    """The service on this size: in a pod, behind keys; stages that compute grow to all of its machines."""
    most = size.nodes * (size.gpus or max(1, (size.cpus - 2) // 4))
    ours: dict[str, Any] = {
        "host": "0.0.0.0", "keys": API_KEYS, "align": {"max": size.nodes * max(2, (size.cpus - 2) // 4)},
        "predict": {"max": most, "gpus": 0.2 if size.gpus else 0.0},
        "synthesize": {"max": most, "gpus": 0.5 if size.gpus else 0.0},
    }  # fmt: skip
    for key, part in ours.items():
        if isinstance(part, dict):
            ours[key] = all_settings[key] | part | given.get(key, {})
    return ours | {key: value for key, value in given.items() if not isinstance(ours.get(key), dict)}


def _check(config: Config, size: Size) -> None:
    """Raise ConfigError where the size cannot serve the configuration."""
    scale, batch = config.scale, config.train.batch or 2
    workers, gpus = scale.workers or 1, size.nodes * size.gpus
    has = f"size {size.name} has {size.nodes} machines with {size.gpus} GPUs and {size.cpus} CPUs each"
    if config.device == "cuda" and not gpus:
        raise ConfigError(f"device is cuda and {has}; take a size such as {size.nodes}x1, or set device to cpu")
    if scale.nodes > size.nodes:
        raise ConfigError(f"scale.nodes is {scale.nodes} and {has}; take {scale.nodes}x{size.gpus}, or lower it")
    if workers * scale.gpus_per_worker > gpus:
        raise ConfigError(
            f"scale.workers x scale.gpus_per_worker is {workers * scale.gpus_per_worker:g} GPUs and {has}: take a "
            "larger size, or lower them"
        )
    if workers > size.nodes * size.cpus:
        raise ConfigError(f"scale.workers is {workers} and {has}: take a larger size, or lower it")
    if batch % (2 * workers):
        raise ConfigError(
            f"train.batch counts the faces of all workers: expected a multiple of {2 * workers} for {workers} workers, "
            f"got {batch}; set train.batch or take another size"
        )
