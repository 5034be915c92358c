"""`anonymousnet perturbation`: compute Stage IV's universal perturbation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, bar, celeba, plain_errors, show


@click.command()
@click.option("--data", type=FOLDER, help="CelebA's folder [ANONYMOUSNET_CELEBA].")
@click.option("--out", type=FOLDER, default=Path("runs/universal"), show_default=True)
@click.option(
    "--against",
    default="attributes,embedder",
    show_default=True,
    help="Networks to fool: attributes, embedder, detector.",
)
@click.option("--solver", type=click.Choice(["sgd", "deepfool"]), default="sgd", show_default=True)
@click.option("--xi", default="10/255", show_default=True, help="Largest change, as a share of the full range.")
@click.option("--faces", default=600, show_default=True, help="Released faces to compute it on.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--workers", type=int, help="Compute with a Ray actor and this many workers [in this process].")
@click.option("--address", help="Ray cluster to run on, such as auto [a local one]; with --workers.")
@CONFIG
@SET
@JSON
@plain_errors
def perturbation(
    data: Path | None, out: Path, against: str, solver: Any, xi: str, faces: int, epochs: int, workers: int | None,
    address: str | None, config_file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Compute Stage IV's universal perturbation on released faces; a killed run goes on.

    With --workers, OUT/versions/ gets a version of it after every epoch, and OUT/latest.json names the newest.
    """
    from anonymousnet.config import Config
    from anonymousnet.errors import ConfigError
    from anonymousnet.training.perturbation import compute_perturbation
    from anonymousnet.training.tasks import training_tables
    from anonymousnet.training.universal import Plan
    from anonymousnet.weights import read

    if address and workers is None:
        raise ConfigError("--address: expected --workers N beside it; without workers nothing runs on a cluster")
    config = Config.load(config_file, overrides)
    plan = Plan(_share(xi), solver, epochs, seed=config.seed, robust=True, tintless=True)
    names = tuple(against.split(","))
    px = int(read(config.synthesize.generator).config["px"])
    tables = training_tables(celeba(data), px, config.seed, progress=lambda rows: bar("faces")(rows, None))
    if workers is None:
        done = compute_perturbation(config, *tables, out, names, plan, faces, lambda e: _said(e, epochs))
    else:
        from anonymousnet.pipelines import perturbation as pipeline

        done = pipeline.compute_perturbation(config, *tables, out, names, plan, faces, workers, address, bar("batches"))
    show({**asdict(done), "weights": str(done.weights)}, as_json, [
        *_lines([f"epsilon {row['epsilon'] * 255:5.1f}/255" for row in done.curve], names, done.curve),
        *_lines([f"{row['after']} at {plan.xi * 255:g}/255" for row in done.robustness], names, done.robustness),
        f"weights  {done.weights}",
    ])  # fmt: skip


def _lines(titles: list[str], names: tuple[str, ...], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Fooling rates as text, one line each."""
    for title, row in zip(titles, rows, strict=True):
        rates = zip(names, row["fooled"], row["noise"], strict=True)
        yield f"{title:<34}" + "  ".join(
            f"{name}: fooled {rate:.3f} (noise {noise:.3f})" for name, rate, noise in rates
        )


def _share(text: str) -> float:
    """A number, or a fraction such as 10/255. Raises ConfigError for anything else."""
    from fractions import Fraction

    from anonymousnet.errors import ConfigError

    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--xi: expected a number or a fraction such as 10/255, got '{text}'") from None


def _said(epochs: Iterable[int], of: int) -> Iterable[int]:
    """Progress of a few long epochs, on standard error."""
    for epoch in epochs:
        click.echo(f"epoch {epoch} of {of}", err=True)
        yield epoch
