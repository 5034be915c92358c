"""Cluster files from the one configuration tree: launcher, Kubernetes, images, dashboards.

    images/   Dockerfile.cpu  Dockerfile.cuda  constraints.txt  lock.txt and its sisters
    watch/    prometheus.yaml  endpoint.json  jobs.json
    SIZE/     anonymousnet.yaml    the configuration, its nulls filled from the size
              launcher/            aws.yaml  on-premises.yaml
              kubernetes/          kustomization.yaml and what it names; train.yaml  bulk.yaml  endpoint.yaml

What two files must agree on (replicas, workers, GPUs, batch, ZeRO stage, ports, image) is worked out once, here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from anonymousnet import __version__
from anonymousnet.cluster import watch
from anonymousnet.cluster.sizes import HEAD, Size, fitted, machines
from anonymousnet.config import Config
from anonymousnet.data.store import write_atomic
from anonymousnet.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Environment

PYTHON = "3.11.13"
"""Of both images: Ray wants the same one on all machines."""
REDIS = "redis:7.4.2-bookworm"
DIGEST = re.compile("sha256:[0-9a-f]{64}")
USER = 10001
MARK = "Written by `anonymousnet cluster render`: change the configuration and render again."
CONFIG_FILE = "/etc/anonymousnet/anonymousnet.yaml"
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "5000", "RAY_grpc_client_keepalive_timeout_ms": "5000"}
"""Environment of Ray on every machine alike: a call to a machine that is silent fails after 5 to 10 s and is made again
elsewhere. Ray's own five minutes leave it to TCP, whose seventh try comes after 25 s."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the files need to know beside size and configuration."""

    task: str = "attributes"
    """What train.yaml trains."""
    bucket: str = "anonymousnet"
    """Bucket with photos/, shards/, runs/ and released/."""
    audit_bucket: str = "anonymousnet-private"
    repository: str = "anonymousnet"
    """Where the images are, without their tags."""
    region: str = "us-east-1"
    hosts: tuple[str, ...] = field(default=())
    """On premises: the head's address, then the workers'."""
    image_digest: str = ""
    """sha256:... that the image has where it was pushed to: machines then take no other. Empty: by its tag alone."""
    redis_digest: str = ""
    """The same of Redis's image."""


def render(sizes: list[Size], config: Config, choices: Choices) -> dict[str, str]:
    """All files, by path. Raises ConfigError where a size cannot serve the configuration."""
    if choices.bucket == choices.audit_bucket:
        raise ConfigError(
            f"release and private evidence would share bucket {choices.bucket}; give --audit-bucket one that the "
            "release's readers cannot read"
        )
    for name, digest in (("--image-digest", choices.image_digest), ("--redis-digest", choices.redis_digest)):
        if digest and not DIGEST.fullmatch(digest):
            raise ConfigError(f"{name}: expected sha256: and 64 digits, as `docker push` prints it, got '{digest}'")
    if choices.image_digest and len({bool(size.gpus) for size in sizes}) > 1:
        raise ConfigError("sizes with and without GPUs have two images; render one of them at a time with its digest")
    common = {"mark": MARK, "python": PYTHON, "user": USER, "version": __version__, "repository": choices.repository}
    environment = _templates()
    found = {
        name: environment.get_template(name).render(common)
        for name in environment.list_templates(filter_func=lambda name: name.startswith("images/"))
    }
    found["watch/prometheus.yaml"] = environment.get_template("prometheus.yaml").render(common)
    found["watch/endpoint.json"] = watch.dashboard("AnonymousNet: endpoint", "anonymousnet-endpoint", watch.ENDPOINT)
    found["watch/jobs.json"] = watch.dashboard("AnonymousNet: jobs and machines", "anonymousnet-jobs", watch.JOBS)
    for size in sizes:
        values = _values(size, fitted(config, size, choices.task), choices) | common
        for name in environment.list_templates(filter_func=lambda name: name.startswith("size/")):
            found[f"{size.name}/{name.removeprefix('size/')}"] = _filled(name, values)
        found[f"{size.name}/anonymousnet.yaml"] = f"# {MARK}\n{values['config']}"
    return found


def write(files: dict[str, str], out: Path) -> None:
    """Write the files below `out`. Raises StorageError."""
    for name, text in files.items():
        write_atomic(out / name, text.encode())


def _values(size: Size, config: Config, choices: Choices) -> dict[str, Any]:
    from anonymousnet.serve.session import processes

    kind, other = ("cuda", "gpu") if size.gpus else ("cpu", "cpu")
    hosts = choices.hosts or tuple(f"192.0.2.{i + 1}" for i in range(size.nodes + 1))  # addresses for examples
    if len(hosts) != size.nodes + 1:
        raise ConfigError(
            f"size {size.name} is a head and {size.nodes} machines: expected {size.nodes + 1} --host, got {len(hosts)}"
        )
    cpu_nodes = max(1, size.nodes // 2) if size.gpus else 0
    main = {"name": other, "cpus": size.cpus, "gpus": size.gpus, "instance": size.instance, "max": size.nodes}
    spare = {**_cpu_machine(), "name": "cpu", "max": cpu_nodes}
    launcher = [{**main, "spot": True, "name": f"{other}-spot"}, {**main, "spot": False}]
    head = machines()["aws"][HEAD]
    return {
        "size": size, "task": choices.task, "bucket": choices.bucket, "audit_bucket": choices.audit_bucket,
        "region": choices.region, "hosts": hosts, "example": not choices.hosts,
        "image": _image(f"{choices.repository}:{__version__}-{kind}", choices.image_digest),
        "redis_image": _image(REDIS, choices.redis_digest), "ray": version("ray"),
        "config": config.as_yaml().strip() + "\n", "config_path": "../anonymousnet.yaml",
        "group": main, "cpu_nodes": cpu_nodes, "head_instance": HEAD,
        "launcher_groups": [*launcher, *([{**spare, "spot": True}] if cpu_nodes else [])],
        "head_cpus": head["cpus"] - 1, "head_memory_gib": head["memory_gib"] - 4, "head_shm_gib": 2,
        "groups_of": partial(_groups, size, config, cpu_nodes),
        "bulk_workers": size.nodes * (size.gpus or size.cpus - 2),
        "serve_port": config.serve.port, "serve_config": serve_config(config),
        "keepalive": KEEPALIVE, "keepalive_words": " ".join(f"{name}={value}" for name, value in KEEPALIVE.items()),
        "serve_processes": {name: value for name, value in processes(config).items() if name != "OMP_NUM_THREADS"},
    }  # fmt: skip


def _image(name: str, digest: str) -> str:
    """An image by its tag, and by its bytes where these are known."""
    return f"{name}@{digest}" if digest else name


def _cpu_machine() -> dict[str, Any]:
    instance = machines()["gpus"]["none"]["aws"]["0"]
    return {"instance": instance, "cpus": machines()["aws"][instance]["cpus"], "gpus": 0}


def _groups(size: Size, config: Config, cpu_nodes: int, use: str) -> list[dict[str, Any]]:
    """Worker groups of one manifest. A pod takes a machine, less what Kubernetes and the object store need."""
    fewest = {"standing": 0, "train": config.scale.nodes, "bulk": 0, "endpoint": 1}[use]
    groups = [_pods("gpu" if size.gpus else "cpu", size.cpus, size.memory_gib, size.gpus, fewest, size.nodes)]
    if cpu_nodes and use != "endpoint":
        spare = machines()["aws"][_cpu_machine()["instance"]]
        groups.append(_pods("cpu", spare["cpus"], spare["memory_gib"], 0, 0, cpu_nodes))
    return groups


def _pods(name: str, cpus: int, memory_gib: int, gpus: int, fewest: int, most: int) -> dict[str, Any]:
    memory = int(0.85 * memory_gib)
    return {"name": name, "cpus": cpus - 2, "memory_gib": memory, "gpus": gpus, "shm_gib": int(0.3 * memory),
            "min": fewest, "max": most}  # fmt: skip


def serve_config(config: Config) -> str:
    """Ray Serve's own configuration, as the service renders it; its application reads the tree that pods have."""
    from anonymousnet.serve.app import rendered

    whole = yaml.safe_load(rendered(config))
    (application,) = whole["applications"]
    application["args"] = {"config": CONFIG_FILE}
    return yaml.safe_dump(whole, sort_keys=False)


def _filled(name: str, values: dict[str, Any]) -> str:
    """A template of a size, with `cluster(USE)` and `submitter()` at hand."""
    environment = _templates()

    def cluster(use: str) -> str:
        port = values["serve_port"] if use == "endpoint" else None
        part = environment.get_template("_cluster.yaml")
        return part.render(values | {"groups": values["groups_of"](use), "port": port}).rstrip()

    def submitter() -> str:
        return environment.get_template("_submitter.yaml").render(values).rstrip()

    text = environment.get_template(name).render(values | {"cluster": cluster, "submitter": submitter})
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


@lru_cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
