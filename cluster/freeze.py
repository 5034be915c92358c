"""The exact versions of everything that AnonymousNet needs, as they are installed here: the images' constraints.

    python -m anonymousnet.cluster.freeze > cluster/templates/images/constraints.txt
"""

from __future__ import annotations

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FIRST = "anonymousnet"
BUILD = ("setuptools",)
"""Needed to build what has no wheel (DeepSpeed)."""


def needed(
    name: str, extras: frozenset[str] = frozenset(), seen: set[tuple[str, frozenset[str]]] | None = None
) -> set[str]:  # fmt: skip
    """A package's requirements and theirs, by canonical name."""
    seen = set() if seen is None else seen
    found: set[str] = set()
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            continue
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key not in seen:
            seen.add(key)
            found |= {key[0]} | needed(wanted.name, key[1], seen)
    return found


def main() -> None:
    """Print name==version of each."""
    for name in sorted(needed(FIRST) | set(BUILD)):
        print(f"{name}=={distribution(name).version.partition('+')[0]}")


if __name__ == "__main__":
    main()
