"""The application: deployments wired into one graph, and the Serve config file that says the same.

    serve run anonymousnet.serve.app:build synthesize.strength=1 serve.fused=true
    serve deploy FILE                       # FILE from `anonymousnet serve --render`

The arguments are the configuration's own: `config` names a YAML file, all others are `section.key: value`, or whole
sections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml
from ray import serve
from ray.serve import Application

from anonymousnet.config import Config
from anonymousnet.config_serve import ReplicasConfig, ServeConfig
from anonymousnet.errors import ConfigError
from anonymousnet.parts import STAGES
from anonymousnet.privacy.randomness import load_key
from anonymousnet.serve.keys import Keys
from anonymousnet.serve.release_key import mark_of

IMPORT_PATH = "anonymousnet.serve.app:build"
NAME = "anonymousnet"
HEALTH_S = 10
"""Seconds between two health checks of a replica, each of which runs its network."""


def build(args: dict[str, Any]) -> Application:
    """The graph for a configuration. Raises ConfigError and what else the settings name that cannot be used."""
    return graph(config_of(args))


def config_of(args: dict[str, Any]) -> Config:
    """The configuration that the arguments of an application spell out. Raises ConfigError."""
    rest = dict(args)
    file = rest.pop("config", None)
    return Config.load(file, [f"{key}={value}" for key, value in _flat(rest)])


def graph(config: Config) -> Application:
    """Deployments, wired. Raises ConfigError."""
    from anonymousnet.serve.ingress import Ingress

    check(config)
    mark = mark_of(load_key(config.release.key_file))
    align, books = behind(config, mark)
    options = dict(deployments(config.serve))["Ingress"]
    return serve.deployment(**options)(Ingress).bind(config, mark, align, books)


def behind(config: Config, mark: bytes) -> tuple[Application, Application]:
    """What stands behind the ingress: photos' way through the stages, and the books."""
    from anonymousnet.serve.align import Align
    from anonymousnet.serve.books import Books
    from anonymousnet.serve.stages import StageReplica

    options = dict(deployments(config.serve))
    stages = {
        name: serve.deployment(**options[name.capitalize()])(StageReplica).bind(
            config, (name,), getattr(config.serve, name)
        )
        for name in (() if config.serve.fused else STAGES)
    }
    books = serve.deployment(**options["Books"])(Books).bind(config, mark)
    photos = options["Fused" if config.serve.fused else "Align"]
    return serve.deployment(**photos)(Align).bind(config, mark, stages, books), books


def check(config: Config) -> None:
    """Raise ConfigError for settings that contradict each other or files."""
    from anonymousnet.serve import turing
    from anonymousnet.serve.api import weights_of

    turing.check(config.serve.turing)
    weights_of(config)
    if config.serve.keys is not None:
        budgeted = [key.name for key in Keys(config.serve.keys).all() if key.budget is not None]
        if budgeted and config.release.ledger is None:
            raise ConfigError(f"key '{budgeted[0]}' has a budget and nothing counts it; set release.ledger to a file")


def deployments(settings: ServeConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of every deployment, as `serve.deployment` and a Serve config file take them."""
    names = ("fused",) if settings.fused else ("align", *STAGES)
    sizes = {"Ingress": settings.ingress}
    sizes |= {name.capitalize(): getattr(settings, {"fused": "fused_replicas"}.get(name, name)) for name in names}
    for name, size in sizes.items():
        yield name, _options(name, size, settings.deadline_s)
    # The ledger's one writer. Counting has no need of more.
    yield "Books", _options("Books", ReplicasConfig(max=1, cpus=0.1, ongoing=256, queued=512), settings.deadline_s)


def rendered(config: Config) -> str:
    """The Serve config file: what `serve deploy` takes."""
    changed = config.model_dump(mode="json", exclude_defaults=True)
    settings = config.serve
    tree = {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.host, "port": settings.port, "request_timeout_s": settings.deadline_s + 5},
        "logging_config": {"encoding": "JSON", "log_level": "INFO", "enable_access_log": True},
        "applications": [{
            "name": NAME, "route_prefix": "/", "import_path": IMPORT_PATH, "args": changed,
            "deployments": [options for _, options in deployments(settings)],
        }],
    }  # fmt: skip
    head = "# Written by `anonymousnet serve --render`; use it with `serve deploy FILE` or `serve run FILE`.\n"
    return head + yaml.safe_dump(tree, sort_keys=False, width=100)


def _options(name: str, size: ReplicasConfig, deadline_s: float) -> dict[str, Any]:
    grows = {
        "min_replicas": size.min, "max_replicas": size.max, "target_ongoing_requests": size.target,
        "upscale_delay_s": size.upscale_s, "downscale_delay_s": size.downscale_s,
    }  # fmt: skip
    return {
        "name": name,
        "max_ongoing_requests": size.ongoing,
        "max_queued_requests": size.queued,
        "ray_actor_options": {"num_cpus": size.cpus} | ({"num_gpus": size.gpus} if size.gpus else {}),
        "graceful_shutdown_timeout_s": deadline_s,
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": 30,
        **({"num_replicas": size.min} if size.min == size.max else {"autoscaling_config": grows}),
    }  # fmt: skip


def _flat(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested sections, or dotted keys, as `section.key`, JSON."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) and not above else json.dumps(value)
