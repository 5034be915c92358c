"""YAML and JSON with the line of every part, so that a mistake can be shown where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]
"""Keys and indices that lead to a part."""


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """What is wrong, where, and what to do about it."""

    file: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file."""

    path: Path
    data: Any
    lines: dict[Where, int]

    def mistake(self, where: Where, what: str, remedy: str) -> Mistake:
        """A mistake at a part, or at the nearest one around it that is there."""
        while where not in self.lines:
            where = where[:-1]
        return Mistake(str(self.path), self.lines[where], what, remedy)


class Unreadable(Exception):
    """A file that is not YAML. Holds the mistake."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def documents(path: Path) -> list[Document]:
    """All documents of a YAML or JSON file. Raises Unreadable, also for a key that occurs twice."""
    try:
        return parsed(path, path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(Mistake(str(path), 1, f"cannot be read: {error}", "check the path")) from error


def parsed(path: Path, text: str, above: int = 0) -> list[Document]:
    """All documents of a text that stands in a file, below `above` lines of it. Raises Unreadable."""
    try:
        found = []
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            lines: dict[Where, int] = {}
            _walk(node, (), lines, str(path), above + 1)
            loader = yaml.SafeLoader("")
            found.append(Document(path, loader.construct_document(node), lines))
        return found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = above + (mark.line + 1 if mark else 1)
        raise Unreadable(Mistake(str(path), where, f"not YAML: {error.problem}", "mend it, or render again")) from error


def _walk(node: Any, where: Where, lines: dict[Where, int], file: str, first: int) -> None:
    lines[where] = node.start_mark.line + first
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*where, key.value)
            line = key.start_mark.line + first
            if inner in lines:
                raise Unreadable(Mistake(file, line, f"{key.value} occurs twice", "keep one of the two"))
            _walk(value, inner, lines, file, first)
            lines[inner] = line
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*where, i), lines, file, first)


def named(data: Any, key: str, where: Where = ()) -> Iterator[tuple[Where, Any]]:
    """Every part below `data` that is called `key`, with its place."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, part in items:
        if name == key:
            yield (*where, name), part
        yield from named(part, key, (*where, name))


def shown(where: Where) -> str:
    """A place, for people."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".") or "the file"
