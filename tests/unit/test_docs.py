"""The README is tested against the code: its commands, options, settings, links and Python."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from anonymousnet.cluster.cli import main
from anonymousnet.config import Config, Section

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    anonymousnet ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_their_options_exist(line: str) -> None:
    words = shlex.split(line.split(">")[0])[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        assert words, line
        assert words[0] in command.commands, f"{line}: no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


SECTIONS = "|".join(name for name, value in Config() if isinstance(value, Section))


@pytest.mark.parametrize(
    "setting", sorted(set(re.findall(rf"`((?:{SECTIONS})\.[a-z_]+)`", README)) - {"release.parquet"})
)
def test_settings_exist(setting: str) -> None:
    section, key = setting.split(".")
    assert hasattr(getattr(Config(), section), key)


def test_overrides_shown_are_valid() -> None:
    shown = [re.findall(r"--set (\S+?)`?(?:\s|$)", line) for line in README.splitlines()]
    assert any(shown)
    for overrides in filter(None, shown):
        changed = [override.rstrip("`.") for override in overrides]
        assert Config.load(None, changed) != Config(), changed


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_python_parses_and_names_what_there_is() -> None:
    import anonymousnet

    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(anonymousnet, alias.name) for alias in node.names)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_changelog_speaks_of_this_version() -> None:
    from anonymousnet import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "    make test" in README
