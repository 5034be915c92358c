"""`anonymousnet population`: count the population that Stage II draws from."""

from __future__ import annotations

from pathlib import Path

import click

from anonymousnet.cluster.options import FOLDER, JSON, plain_errors, show


@click.command()
@click.argument("table", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--name", help="What reports call it [the table's file name].")
@click.option("--groups", type=FOLDER, help="YAML file of the attributes to draw together, a line each such as "
              "`hair: [Bald, Bangs]`; every other is on its own [our groups].")  # fmt: skip
@JSON
@plain_errors
def population(table: Path, out: Path, name: str | None, groups: Path | None, as_json: bool) -> None:
    """Count the attributes in TABLE, in the form of list_attr_celeba.txt, into the population file OUT.

    Use it with --set obfuscate.population=OUT. OUT holds counts alone, rounded to multiples of 5, none of fewer than 5
    people. They are not differentially private: do not publish them for small or overlapping groups of people.
    """
    from anonymousnet.data.celeba import read_attributes
    from anonymousnet.privacy.population import NOTE, Population

    _, attributes = read_attributes(table)
    found = Population.learn(attributes, name=name or table.name, groups=_groups(groups) if groups else None)
    found.save(out)
    drawn = [list(group.attributes) for group in found.groups]
    show({"rows": len(attributes), "groups": drawn, "out": str(out), "note": NOTE}, as_json, [
        f"{len(attributes)} rows, {len(drawn)} groups of attributes drawn together",
        *(f"  {', '.join(group)}" for group in drawn),
        f"population  {out}",
        NOTE,
    ])  # fmt: skip


def _groups(file: Path) -> dict[str, list[str]]:
    """Raises ConfigError."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from anonymousnet.errors import ConfigError

    try:
        return TypeAdapter(dict[str, list[str]]).validate_python(yaml.safe_load(file.read_text()))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; check --groups") from error
    except (UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{file}: expected lines such as `hair: [Bald, Bangs]`, found something else") from error
