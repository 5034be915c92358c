"""What all commands share: options, one-line errors, answers as lines or JSON, progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import AnonymousNetError

T = TypeVar("T")
if TYPE_CHECKING:
    _PathType = click.ParamType[Path]
else:  # older versions of click know no types
    _PathType = click.ParamType
SET = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class UserPath(_PathType):
    """A path as `resolve_path` reads it; a mistake in it ends the command with one line, as `plain_errors` has it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        try:
            return resolve_path(value)
        except AnonymousNetError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)


FOLDER = UserPath()
CONFIG = click.option("--config", "config_file", type=FOLDER, help="YAML configuration file.")


def plain_errors(command: Callable[..., T]) -> Callable[..., T]:
    """Errors raised on purpose end the command with one line and status 2; others are bugs and keep their traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        try:
            return command(*args, **kwargs)
        except AnonymousNetError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return wrapped


def show(answer: dict[str, Any], as_json: bool, lines: Iterable[str]) -> None:
    """Print the answer as one JSON object, or as lines for people."""
    for line in [json.dumps(answer)] if as_json else lines:
        click.echo(line)


def bar(unit: str) -> Callable[[Iterable[T], int | None], Iterable[T]]:
    """A progress bar on standard error, on terminals only."""
    from tqdm import tqdm

    return lambda items, total: tqdm(items, total=total, unit=unit, disable=None)


def celeba(data: Path | None) -> Path:
    """CelebA's folder as given, or from the environment. Raises ConfigError where neither names one."""
    from anonymousnet.errors import ConfigError
    from anonymousnet.training.tasks import celeba_folder

    folder = data or celeba_folder()
    if folder is None:
        raise ConfigError(
            "no faces: give --data FOLDER with CelebA or set ANONYMOUSNET_CELEBA; `train` also takes --synthetic"
        )
    return folder
