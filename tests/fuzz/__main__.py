"""`python -m tests.fuzz --count 2000 --seed 0`: damaged files, and what became of each.

Status 1 if one raised anything but an error of ours, took longer than 10 s, or cost another entry its photo; --keep
FOLDER keeps those files. A case is a function of seed and number alone: `--first 17 --count 1` is one of them again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from tests.fuzz.targets import SHARES, TARGETS

LONGEST_S = 10.0


@dataclass
class Report:
    """What became of the cases."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By target and outcome."""
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def fuzz(
    count: int, seed: int, first: int = 0, only: str | None = None, keep: Path | None = None,
    longest_s: float = LONGEST_S,
) -> Report:  # fmt: skip
    """Cases `first` to `first + count - 1`."""
    report = Report()
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        target = only or str(rng.choice(list(SHARES), p=list(SHARES.values())))
        started, name, data = time.perf_counter(), "", b""
        try:
            name, data, outcome = TARGETS[target](rng)
        except Exception as error:
            outcome = "FAILED"
            report.failures.append(f"{target} {number}: {type(error).__name__}: {error}")
        seconds = time.perf_counter() - started
        report.outcomes[target, outcome] += 1
        report.slowest = max(report.slowest, (seconds, f"{target} {number} ({name})"))
        if seconds > longest_s:
            report.failures.append(f"{target} {number} ({name}): {seconds:.1f} s, at most {longest_s:.0f} are allowed")
        if keep and report.failures and str(number) in report.failures[-1]:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{target}-{number}").write_bytes(data)
    return report


@click.command()
@click.option("--count", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True)
@click.option("--only", type=click.Choice(list(TARGETS)))
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the files that failed.")
def main(count: int, seed: int, first: int, only: str | None, keep: Path | None) -> None:
    """Damage files and read them."""
    report = fuzz(count, seed, first, only, keep)
    for (target, outcome), cases in sorted(report.outcomes.items()):
        click.echo(f"{target:<10}{outcome:<20}{cases:>6}")
    click.echo(f"slowest: {report.slowest[0]:.2f} s, {report.slowest[1]}")
    for failure in report.failures:
        click.echo(failure)
    click.echo(f"{count} cases, {len(report.failures)} failures")
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
