"""`anonymousnet population`: count the population that Stage II draws from."""

from __future__ import annotations

from pathlib import Path

import click

from anonymousnet.cluster.options import FOLDER, JSON, plain_errors, show


@click.command()
@click.argument("table", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--name", help="What reports call it [the table's file name].")
@JSON
@plain_errors
def population(table: Path, out: Path, name: str | None, as_json: bool) -> None:
    """Count the attributes in TABLE, in the form of list_attr_celeba.txt, into the population file OUT.

    Use it with --set obfuscate.population=OUT. OUT holds aggregates only.
    """
    from anonymousnet.data.celeba import read_attributes
    from anonymousnet.privacy.population import Population

    _, attributes = read_attributes(table)
    found = Population.learn(attributes, name=name or table.name)
    found.save(out)
    groups = [list(group.attributes) for group in found.groups]
    show({"rows": len(attributes), "groups": groups, "out": str(out)}, as_json, [
        f"{len(attributes)} rows, {len(groups)} groups of attributes drawn together",
        *(f"  {', '.join(group)}" for group in groups),
        f"population  {out}",
    ])  # fmt: skip
