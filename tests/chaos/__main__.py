"""`make chaos`: every job under every fault, on several machines in one: what was lost, how long it took to recover.

    python -m tests.chaos [--job preprocess ...] [--fault kill ...] [--out runs/chaos]

A fault strikes when a third of the job is done. `stall`: the longest time without progress from then on, beside the
undisturbed run's longest. `later`: how much longer the whole job took. Exit status 1 if anything was lost or not run.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from tests.chaos import bed as beds
from tests.chaos.bed import Bed, Machine
from tests.chaos.jobs import JOBS, Job, prepare

AT = 1 / 3
"""How much of the job is done when the fault strikes."""
LONGEST_S = 300
"""A job that takes longer counts as hung."""
AWAY_S, SLOW_S, SLOW = 15.0, 30.0, 0.15
"""A cable is out, and a machine slow, for so many seconds; so much of one CPU is left to it then."""


@dataclass
class Outcome:
    """One cell of the matrix."""

    job: str
    fault: str
    seconds: float = 0
    stall: float = 0
    """Longest time without progress, from the fault on."""
    lost: str = ""
    ran: bool = True
    busy: list[str] = field(default_factory=list)
    """What the machine was doing when the fault struck."""


def kill(machine: Machine) -> None:
    """kill -9 of every process of a machine; an empty one takes its place."""
    machine.kill()


def cut(machine: Machine) -> None:
    """The machine's cable is out for a while, long enough for it to be given up."""
    machine.cut()
    time.sleep(AWAY_S)
    machine.plug()


def slow(machine: Machine) -> None:
    """A few per cent of its CPUs are left to the machine for a while."""
    machine.limit(SLOW)
    time.sleep(SLOW_S)
    machine.limit(None)


def fill(machine: Machine) -> None:
    """No byte is left on the machine's disk, to the end."""
    machine.fill()


FAULTS = {"kill": kill, "cut": cut, "slow": slow, "disk": fill, "head": kill}


def run(bed: Bed, job: Job, fault: str, out: Path, undisturbed: Path) -> Outcome:
    """One cell: the job, the fault in its midst."""
    found = Outcome(job.name, fault)
    machine = bed.head if fault == "head" else bed.workers[0]
    log = out.with_suffix(".log")
    command = job.process(out, bed.address)
    started = last = time.monotonic()
    process, before, struck, gaps = bed.desk.spawn(command, log), 0, 0.0, [0.0]
    striking: threading.Thread | None = None
    while process.poll() is None and time.monotonic() - started < LONGEST_S:
        time.sleep(0.1)
        done, now = job.done(out), time.monotonic()
        if done > before:
            if struck:
                gaps.append(now - max(last, struck))
            before, last = done, now
        if not struck and done >= job.units * AT:
            struck, found.busy = now, machine.working()
            if fault != "none":
                striking = threading.Thread(target=FAULTS[fault], args=(machine,), daemon=True)
                striking.start()
    now = time.monotonic()
    found.seconds, found.stall = round(now - started, 1), round(max(*gaps, now - max(last, struck)), 1)
    if striking is not None:
        striking.join()
    if process.poll() is None:
        process.kill()
        found.lost = f"hung after {before} of {job.units}"
    elif process.returncode:
        said = log.read_text(errors="replace").strip().splitlines()
        found.lost = f"ended with {process.returncode}: {said[-1] if said else ''}"
    elif fault != "none":
        found.lost = job.lost(out, undisturbed)
    if fault != "none" and not struck:
        found.lost, found.ran = "the fault never struck", False
    return found


def show(outcomes: list[Outcome]) -> list[str]:
    """The matrix as text."""
    lines = [f"{'job':<14}{'fault':<8}{'lost':<9}{'stall s':>9}{'later s':>9}   busy on the machine at the fault"]
    calm = {one.job: one for one in outcomes if one.fault == "none"}
    for one in outcomes:
        if one.fault == "none":
            lines.append(f"{one.job:<14}{'none':<8}{'':<9}{one.stall:>9.1f}{'':>9}   {one.seconds:.1f} s in all")
            continue
        lost = "NOT RUN" if not one.ran else "LOST" if one.lost else "nothing"
        later = one.seconds - calm[one.job].seconds
        lines.append(
            f"{one.job:<14}{one.fault:<8}{lost:<9}{one.stall:>9.1f}{later:>9.1f}   "
            f"{one.lost or ', '.join(sorted(set(one.busy))) or 'nothing'}"
        )
    return lines


@click.command()
@click.option("--job", "jobs", multiple=True, type=click.Choice([job.name for job in JOBS]), help="Only these [all].")
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(FAULTS)), help="Only these [all].")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/chaos"), show_default=True)
def main(jobs: tuple[str, ...], faults: tuple[str, ...], out: Path) -> None:
    """Every job under every fault."""
    if reason := beds.missing():
        sys.exit(f"NOT RUN: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the bed is taken down however this ends
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        prepare(data)
        for kind in (job for job in JOBS if not jobs or job.name in jobs):
            with Bed() as bed:
                for fault in ("none", *(f for f in FAULTS if not faults or f in faults)):
                    bed.heal()
                    where = out.resolve() / f"{kind.name}-{fault}"
                    outcomes.append(run(bed, kind(data), fault, where, out.resolve() / f"{kind.name}-none"))
                    (out / "matrix.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
                    click.echo(show([o for o in outcomes if o.job == kind.name])[-1], err=True)
    click.echo("\n".join(show(outcomes)))
    sys.exit(any(one.lost for one in outcomes))


if __name__ == "__main__":
    main()
