"""The one place that turns what a user typed (`~/x`, `x`, `.`, `../x`) into a path.

resolve_path("~/audit")         # at every entry: command line, Python
key_file: UserPath              # a setting: a relative path is the driver's, `~` is each machine's own
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from anonymousnet.errors import ConfigError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""s3://bucket, and what a Path makes of it: as a path it would be a folder `s3:` here, open to others."""


def resolve_path(text: str | Path) -> Path:
    """The absolute path that `text` stands for: `~` is a home folder, anything relative lies in the working folder.

    Links stay as they are, unless `..` must be followed through one. A name that begins with `~` is written `./~name`.
    Raises ConfigError where there is no path in it, no home folder is known, or the links run in a circle.
    """
    plain = os.fspath(text)
    if not plain or "\0" in plain:
        raise ConfigError(f"expected a path, got {plain!r}; leave the setting out, or write a folder or file")
    if _ADDRESS.match(plain):
        raise ConfigError(f"{plain}: expected a folder or file of this machine, got an address; write a path")
    expanded = os.path.expanduser(plain)
    if (plain.startswith("~") and not os.path.isabs(expanded)) or _homeless(plain):
        raise ConfigError(
            f"{plain}: no home folder is known for it (HOME is not set, or there is no such user); set HOME, or write "
            "the whole path (./ before a name that begins with ~)"
        )
    try:
        path = Path.cwd() / expanded
        return path.resolve() if ".." in path.parts else path
    except (OSError, RuntimeError) as error:  # the working folder is gone; links run in a circle
        raise ConfigError(f"{plain}: cannot follow this path ({error}); write another one") from error


def beside(path: Path, ending: str) -> Path:
    """The path of the same name with `ending` behind it. Raises ConfigError for the root, beside which nothing lies."""
    if not path.name:
        raise ConfigError(f"{path}: expected a folder with a name, got the root; choose a folder in it")
    return path.with_name(path.name + ending)


def _homeless(plain: str) -> bool:
    """Whether `~` alone is meant, and HOME is empty: everything would go to the root."""
    return plain.split("/", 1)[0] == "~" and os.environ.get("HOME") == ""


def _absolute(value: object) -> object:
    """A relative path made absolute: workers have other working folders. `~` stays, for each has a home of its own."""
    if not isinstance(value, str | Path) or os.fspath(value).startswith("~"):
        return value
    try:
        return resolve_path(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # pydantic puts the setting's name before it


UserPath = Annotated[Path, BeforeValidator(_absolute)]
"""A path in the configuration."""
