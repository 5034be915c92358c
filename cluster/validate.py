"""Look through cluster files, whichever they are, and name every mistake by file and line. No cluster is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anonymousnet.cluster.check import files, manifests
from anonymousnet.cluster.check.agree import CONFIG, agree
from anonymousnet.cluster.check.text import Document, Mistake, Unreadable, documents
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError

SUFFIXES = {".yaml", ".yml", ".json"}


def validate(places: list[Path]) -> tuple[int, list[Mistake]]:
    """How many files were looked at below `places` (files or folders), and what is wrong with them.

    Raises ConfigError where a place is not there or holds no file of ours.
    """
    mistakes: set[Mistake] = set()
    found: dict[Path, list[Document]] = {}
    dockerfiles = []
    for path in _files(places):
        if path.name.startswith("Dockerfile"):
            dockerfiles.append(path)
            mistakes.update(files.dockerfile(path))
            continue
        try:
            found[path] = documents(path)
        except Unreadable as error:
            mistakes.add(error.mistake)
            found[path] = []
    for document in (one for of_file in found.values() for one in of_file):
        mistakes.update(_check(document))
    for path in found:
        if path.name == CONFIG:
            below = [one for other, ones in found.items() if path.parent in other.parents for one in ones]
            mistakes.update(agree(path.parent, [one for one in below if isinstance(one.data, dict)]))
    return len(found) + len(dockerfiles), sorted(mistakes)


def _files(places: list[Path]) -> Iterator[Path]:
    for place in places:
        if not place.exists():
            raise ConfigError(f"{place} is not there; give files or folders that `anonymousnet cluster render` wrote")
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        ours = [p for p in inside if p.is_file() and (p.suffix in SUFFIXES or p.name.startswith("Dockerfile"))]
        if not ours:
            raise ConfigError(f"{place} holds no YAML, JSON or Dockerfile; expected what `cluster render` writes")
        yield from ours


def _check(document: Document) -> Iterator[Mistake]:
    """By what the document is."""
    data = document.data
    if not isinstance(data, dict):
        yield document.mistake((), f"expected keys and values, found {type(data).__name__}", "render again")
    elif "apiVersion" in data or "kind" in data:
        yield from manifests.check(document)
    elif "cluster_name" in data or "provider" in data:
        yield from files.launcher(document)
    elif "panels" in data:
        yield from files.dashboard(document)
    elif "scrape_configs" in data:
        yield from files.prometheus(document)
    elif data.keys() & Config.model_fields.keys():
        yield from files.config(document)
    else:
        yield document.mistake(
            (), "not a file that we know",
            "expected a Kubernetes manifest, a launcher file, a dashboard, Prometheus's or our configuration",
        )  # fmt: skip
