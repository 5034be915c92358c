"""As an operator would do it: `ray start` on several machines, and jobs by `ray job submit` with the wheel.

    python -m tests.chaos.submit        # builds the wheel, runs a bulk job and a training run

The machines are a bed's, without PYTHONPATH: the code comes with the job, and each job says from where it was loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import bed as beds
from tests.chaos.bed import BIN, DASHBOARD, Bed
from tests.chaos.jobs import Bulk, Job, Train, prepare

ROOT = Path(__file__).resolve().parents[2]
WHERE = "import anonymousnet; print('code:', anonymousnet.__file__)"


def main() -> None:
    """Run both jobs; exit status 1 if one does not end well."""
    if reason := beds.missing():
        sys.exit(f"NOT RUN: {reason}")
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        prepare(data)
        wheel = _wheel(data / "dist")
        os.environ.pop("PYTHONPATH", None)
        # Ray installs the wheel with pip: without this, torch and Ray themselves anew, from the network.
        with Bed(dashboard=True, PIP_NO_DEPS="1") as bed:
            ended = [_submit(bed, kind(data), wheel, data / kind.name) for kind in (Bulk, Train)]
    sys.exit(0 if all(ended) else 1)


def _wheel(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True,
    )  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


def _submit(bed: Bed, job: Job, wheel: Path, out: Path) -> bool:
    entry = [sys.executable, "-m", "anonymousnet.cluster.cli", *job.command(out, "auto")]
    environment = json.dumps({"py_modules": [str(wheel)]})
    address = f"http://{bed.head.address}:{DASHBOARD}"
    command = [str(BIN / "ray"), "job", "submit", "--address", address, "--runtime-env-json", environment, "--"]
    log = out.with_suffix(".log")
    first = bed.desk.spawn([*command, sys.executable, "-c", WHERE], log).wait(300)
    started = time.monotonic()
    status = bed.desk.spawn([*command, *entry], log).wait(600)
    seconds, said = time.monotonic() - started, log.read_text(errors="replace").splitlines()
    code = next((line for line in said if line.startswith("code:")), "code: unknown")
    print(f"{job.name}: status {status} after {seconds:.1f} s, {job.done(out)} of {job.units} parts; {code}")
    if first or status:
        print("\n".join(said[-20:]))
    return not first and not status and job.done(out) == job.units


if __name__ == "__main__":
    main()
