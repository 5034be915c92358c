"""That the files of one size agree with the configuration beside them: workers, GPUs, machines, image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anonymousnet.cluster.check.manifests import CLUSTERS, pods
from anonymousnet.cluster.check.text import Document, Mistake, Where
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError

CONFIG = "anonymousnet.yaml"


def agree(folder: Path, found: list[Document]) -> Iterator[Mistake]:
    """Mistakes between the documents below a size's folder, which holds anonymousnet.yaml."""
    try:
        config = Config.load(folder / CONFIG)
    except ConfigError:
        return  # told by itself
    images: dict[str, Document] = {}
    for document in found:
        kind = document.data.get("kind")
        if kind == "ConfigMap" and CONFIG in (document.data.get("data") or {}):
            told, here = document.data["data"][CONFIG], (folder / CONFIG).read_text()
            if told.strip() != _bare(here):
                where: Where = ("data", CONFIG)
                yield document.mistake(where, f"it is not what {folder / CONFIG} says", "render again")
        if kind in CLUSTERS:
            yield from _large_enough(document, config)
            yield from _one_image(document, images)
        if "available_node_types" in document.data:
            yield from _launched(document, config)


def _bare(text: str) -> str:
    """Without the first line, which says who wrote the file."""
    return text.partition("\n")[2].strip()


def _large_enough(document: Document, config: Config) -> Iterator[Mistake]:
    """Whether a job's cluster can hold its workers."""
    spec: Any = document.data
    for step in CLUSTERS[document.data["kind"]]:
        spec = spec.get(step) or {}
    groups = spec.get("workerGroupSpecs") or []
    gpus = sum(_gpus(group) * group.get("maxReplicas", 0) for group in groups)
    wanted = (config.scale.workers or 1) * config.scale.gpus_per_worker
    entry = str((document.data.get("spec") or {}).get("entrypoint", ""))
    where = (*CLUSTERS[document.data["kind"]], "workerGroupSpecs")
    if "anonymousnet train" in entry and gpus < wanted:
        yield document.mistake(
            (*where, 0, "maxReplicas"), f"the cluster grows to {gpus} GPUs, scale.workers need {wanted:g}",
            "raise maxReplicas, or render again",
        )  # fmt: skip
    if "anonymousnet train" in entry and sum(group.get("minReplicas", 0) for group in groups) < config.scale.nodes:
        yield document.mistake(
            (*where, 0, "minReplicas"), f"it starts with fewer machines than scale.nodes = {config.scale.nodes}",
            "raise minReplicas, or render again",
        )  # fmt: skip
    workers = re.search(r"anonymize .*--workers (\d+)", entry)
    if workers and gpus and int(workers[1]) > gpus:
        yield document.mistake(
            ("spec", "entrypoint"), f"--workers {workers[1]} and the cluster grows to {gpus} GPUs", "lower --workers"
        )


def _gpus(group: dict[str, Any]) -> int:
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or []
    return sum(int(((c.get("resources") or {}).get("limits") or {}).get("nvidia.com/gpu", 0)) for c in containers)


def _one_image(document: Document, seen: dict[str, Document]) -> Iterator[Mistake]:
    for where, pod in pods(document):
        for i, container in enumerate(pod["containers"]):
            image = str(container.get("image"))
            seen.setdefault(image, document)
            if len(seen) > 1 and seen[image] is document:
                first = next(iter(seen))
                yield document.mistake(
                    (*where, "containers", i, "image"), f"image {image}, elsewhere {first}",
                    "all machines of a cluster need the same code: render again",
                )  # fmt: skip
                del seen[image]


def _launched(document: Document, config: Config) -> Iterator[Mistake]:
    types = document.data["available_node_types"]
    gpus = sum(kind.get("resources", {}).get("GPU", 0) * kind.get("max_workers", 0) for kind in types.values())
    wanted = (config.scale.workers or 1) * config.scale.gpus_per_worker
    if gpus < wanted:
        yield document.mistake(
            ("available_node_types",), f"all machines together have {gpus} GPUs, scale.workers need {wanted:g}",
            "raise max_workers, or render again",
        )  # fmt: skip
