"""Kubernetes manifests: schemas, pod security, secrets by reference, and that parts fit one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from anonymousnet.cluster.check.schema import against, kinds, schema_of
from anonymousnet.cluster.check.text import Document, Mistake, Unreadable, Where, named, parsed, shown

SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.I)
CLUSTERS: dict[str, Where] = {
    "RayCluster": ("spec",), "RayJob": ("spec", "rayClusterSpec"), "RayService": ("spec", "rayClusterConfig"),
}  # fmt: skip


def check(document: Document) -> Iterator[Mistake]:
    """What is wrong with one manifest."""
    kind = document.data.get("kind")
    if not isinstance(kind, str) or schema_of(kind) is None:
        yield document.mistake(("kind",), f"kind {kind} is not one of ours", f"expected one of {', '.join(kinds())}")
        return
    yield from against(document, kind)
    if kind == "Kustomization":
        yield from _resources(document)
    for where, pod in pods(document):
        yield from _security(document, where, pod)
    if kind in CLUSTERS:
        yield from _cluster(document, CLUSTERS[kind])
    if kind == "RayService":
        yield from _serve(document)


def pods(document: Document) -> Iterator[tuple[Where, dict[str, Any]]]:
    """Every pod's spec."""
    for where, part in named(document.data, "containers"):
        if isinstance(part, list):
            spec = document.data
            for step in where[:-1]:
                spec = spec[step]
            yield where[:-1], spec


def _security(document: Document, where: Where, pod: dict[str, Any]) -> Iterator[Mistake]:
    if not _at(pod, "securityContext", "runAsNonRoot"):
        yield document.mistake(
            (*where, "securityContext"), f"{shown(where)}: the pod may run as root", "set runAsNonRoot: true"
        )
    for i, container in enumerate(pod["containers"]):
        here = (*where, "containers", i)
        if not isinstance(container, dict):
            continue
        context = container.get("securityContext") or {}
        if context.get("allowPrivilegeEscalation") is not False or _at(context, "capabilities", "drop") != ["ALL"]:
            yield document.mistake(
                (*here, "securityContext"), f"{shown(here)}: the container could gain rights",
                "set allowPrivilegeEscalation: false and capabilities.drop: [ALL]",
            )  # fmt: skip
        if not _at(container, "resources", "limits"):
            yield document.mistake((*here, "resources"), f"{shown(here)} has no limits", "set resources.limits")
        yield from _image(document, (*here, "image"), container.get("image"))
        for j, variable in enumerate(container.get("env") or []):
            if isinstance(variable, dict) and "value" in variable and SECRET.search(str(variable.get("name"))):
                yield document.mistake(
                    (*here, "env", j, "value"), f"{variable['name']} stands here in plain text",
                    "make a Secret and refer to it: valueFrom.secretKeyRef",
                )  # fmt: skip


def _image(document: Document, where: Where, image: Any) -> Iterator[Mistake]:
    tag = str(image).rpartition("/")[2].partition(":")[2]
    if tag in ("", "latest"):
        yield document.mistake(where, f"image {image} is another one every day", "name a version, or a digest")


def _cluster(document: Document, where: Where) -> Iterator[Mistake]:
    spec = _at(document.data, *where)
    if not isinstance(spec, dict):
        return
    if (told := spec.get("rayVersion")) != version("ray"):
        yield document.mistake(
            (*where, "rayVersion"), f"rayVersion is {told}, the code is for {version('ray')}", "render again"
        )
    if _at(spec, "authOptions", "mode") != "token":
        yield document.mistake(
            (*where, "authOptions"), "whoever reaches a port may run code", "set authOptions.mode: token"
        )
    for i, group in enumerate(spec.get("workerGroupSpecs") or []):
        here = (*where, "workerGroupSpecs", i)
        fewest, now, most = (group.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
        if not fewest <= now <= most:
            yield document.mistake(
                (*here, "maxReplicas"), f"group {group.get('groupName')}: {fewest} <= {now} <= {most} does not hold",
                "expected minReplicas <= replicas <= maxReplicas",
            )  # fmt: skip
        for j, container in enumerate(_at(group, "template", "spec", "containers") or []):
            pod, start = _at(container, "resources", "limits", "cpu"), _at(group, "rayStartParams", "num-cpus")
            if pod is not None and start is not None and float(start) > float(pod):
                yield document.mistake(
                    (*here, "rayStartParams", "num-cpus"), f"Ray is told of {start} CPUs, container {j} has {pod}",
                    "tell Ray of as many as there are",
                )  # fmt: skip


def _serve(document: Document) -> Iterator[Mistake]:
    """What is wrong with the text within, which Serve reads."""
    where = ("spec", "serveConfigV2")
    text = _at(document.data, *where)
    if not isinstance(text, str):
        return
    try:
        for within in parsed(document.path, text, document.lines[where]):  # a block begins on its key's next line
            yield from against(within, "Serve")
    except Unreadable as error:
        yield error.mistake


def _resources(document: Document) -> Iterator[Mistake]:
    for i, name in enumerate(document.data.get("resources") or []):
        if "://" not in str(name) and not (document.path.parent / str(name)).exists():
            yield document.mistake(("resources", i), f"there is no file {name}", "mend the name, or render again")


def _at(data: Any, *where: str | int) -> Any:
    """A part of the data; None where it is not there."""
    for step in where:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data
