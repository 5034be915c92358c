"""`anonymousnet serve` and `anonymousnet keys`: the service, and who may use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, plain_errors, show

if TYPE_CHECKING:
    from anonymousnet.config import Config


@click.command()
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="TCP port to listen on [8000].")
@click.option("--fused", is_flag=True, help="All stages in one process, for small machines.")
@click.option("--trust-network", is_flag=True, help="Start although more than the port listens beyond this machine.")
@click.option("--address", help="A Ray cluster's address [Ray on this machine].")
@click.option("--render", is_flag=True, help="Print the Serve config file for `serve deploy`, and end.")
@CONFIG
@SET
@plain_errors
def serve(
    host: str | None, port: int | None, fused: bool, trust_network: bool, address: str | None, render: bool,
    config_file: Path | None, overrides: tuple[str, ...],
) -> None:  # fmt: skip
    """Serve the API and its page until it is stopped (Ctrl-C or SIGTERM): requests under way are finished first."""
    from anonymousnet.config import Config

    given = [f"serve.{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    flags = (("fused", fused), ("trust_network", trust_network))
    given += [f"serve.{name}=true" for name, wanted in flags if wanted]
    config = Config.load(config_file, [*overrides, *given])
    if render:
        from anonymousnet.serve.app import rendered

        click.echo(rendered(config), nl=False)
        return
    _run(config, address)


def _run(config: Config, address: str | None) -> None:
    from anonymousnet.serve.session import running

    settings = config.serve
    with running(config, address) as service:
        click.echo(
            f"AnonymousNet answers at http://{settings.host}:{settings.port}/ (API: /openapi.json); Ctrl-C ends it"
        )
        click.echo(f"metrics: {' '.join(service.metrics)}")
        service.wait()
    click.echo("ended", err=True)
    sys.exit(0)


@click.group()
def keys() -> None:
    """API keys of the service: a file of hashes, each with its policy."""


FILE = click.option("--keys", "file", type=FOLDER, default=Path("~/.anonymousnet/keys.json"), show_default=True,
                    help="The file that serve.keys names.")  # fmt: skip


@keys.command("new")
@click.argument("name")
@FILE
@click.option("--max-epsilon", type=float, help="Most epsilon of a photo, all its faces together [no limit].")
@click.option("--min-strength", type=float, help="Least strength a request may ask for [as the server's].")
@click.option("--budget", type=float, help="Most epsilon that all photos of the key may spend together [no limit].")
@click.option("--per-minute", type=int, help="Photos in any minute [no limit].")
@click.option("--bucket", "buckets", multiple=True,
              help="A place such as s3://photos/acme that its jobs may use; repeatable [serve.buckets].")  # fmt: skip
@JSON
@plain_errors
def new(
    name: str, file: Path, max_epsilon: float | None, min_strength: float | None, budget: float | None,
    per_minute: int | None, buckets: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Make a key called NAME and print it: only its hash is kept, so nobody can show it again."""
    from anonymousnet.serve.keys import new_key

    secret = new_key(file, name, max_epsilon=max_epsilon, min_strength=min_strength, budget=budget,
                     per_minute=per_minute, buckets=buckets or None)  # fmt: skip
    show({"name": name, "key": secret}, as_json, [secret])


@keys.command("list")
@FILE
@JSON
@plain_errors
def list_all(file: Path, as_json: bool) -> None:
    """The keys' names and policies."""
    from anonymousnet.serve.keys import Keys

    found = [key.model_dump(exclude={"sha256"}) for key in Keys(file).all()]
    show({"keys": found}, as_json, [
        "  ".join([
            f"{key['name']:<22}", *(f"{k} {v:g}" for k, v in key.items() if isinstance(v, float | int)),
            *(key["buckets"] or ()),
        ])
        for key in found
    ])  # fmt: skip


@keys.command("remove")
@click.argument("name")
@FILE
@plain_errors
def remove(name: str, file: Path) -> None:
    """Take a key away: it is refused from the next request on."""
    from anonymousnet.serve.keys import remove_key

    remove_key(file, name)
