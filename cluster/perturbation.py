"""`anonymousnet perturbation`: compute Stage IV's universal perturbation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from anonymousnet.cluster.options import CONFIG, FOLDER, JSON, SET, bar, celeba, plain_errors, show


@click.command()
@click.option("--data", type=FOLDER, help="CelebA's folder [ANONYMOUSNET_CELEBA].")
@click.option("--out", type=FOLDER, default=Path("runs/universal"), show_default=True)
@click.option("--against", default="attributes,embedder", show_default=True, help="Networks to fool.")
@click.option("--solver", type=click.Choice(["sgd", "deepfool"]), default="sgd", show_default=True)
@click.option("--xi", default="10/255", show_default=True, help="Largest change, as a share of the full range.")
@click.option("--faces", default=600, show_default=True, help="Released faces to compute it on.")
@click.option("--epochs", default=10, show_default=True)
@CONFIG
@SET
@JSON
@plain_errors
def perturbation(
    data: Path | None, out: Path, against: str, solver: Any, xi: str, faces: int, epochs: int,
    config_file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Compute Stage IV's universal perturbation on released faces; a killed run goes on."""
    from anonymousnet.config import Config
    from anonymousnet.training.perturbation import compute_perturbation
    from anonymousnet.training.tasks import training_tables
    from anonymousnet.weights import read

    config = Config.load(config_file, overrides)
    px = int(read(config.synthesize.weights).config["px"])
    tables = training_tables(celeba(data), px, config.seed, progress=lambda rows: bar("faces")(rows, None))
    names = tuple(against.split(","))
    done = compute_perturbation(
        config, *tables, out, names, solver, _share(xi), faces, epochs, lambda e: _said(e, epochs)
    )
    show({**asdict(done), "weights": str(done.weights)}, as_json, [
        *(f"epsilon {row['epsilon'] * 255:5.1f}/255  " + "  ".join(
            f"{name}: fooled {rate:.3f} (noise {noise:.3f})"
            for name, rate, noise in zip(names, row["fooled"], row["noise"], strict=True)
        ) for row in done.curve),
        f"weights  {done.weights}",
    ])  # fmt: skip


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
