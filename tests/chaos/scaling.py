"""The scaling model of `anonymousnet cluster plan` against 1, 2 and 4 machines: the bulk job on a bed.

    python -m tests.chaos.scaling           # prints JSON: seconds and photos per second by machines

Two cores are too few for four machines at full speed. So once the job is under way every machine gets the same small
share of one CPU, and what is seen is how work spreads and what the cluster adds, at equal speed per machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from anonymousnet.pipelines.bulk_plan import CHUNK
from tests.chaos import bed as beds
from tests.chaos.bed import Bed
from tests.chaos.jobs import Bulk, prepare

SHARE = 0.4
"""Of one CPU, for each machine."""
MACHINES = (1, 2, 4)
COPIES = 3
"""Of the chaos jobs' photos: 36 chunks. The later half counts: the first ones wait for processes that publish them."""


def main() -> None:
    """Measure and print."""
    if reason := beds.missing():
        sys.exit(f"NOT RUN: {reason}")
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        prepare(data)
        for photo in list((data / "photos").iterdir()):
            for copy in range(1, COPIES):
                os.link(photo, photo.with_stem(f"{photo.stem}-{copy}"))
        found = {n: _run(data, n) for n in MACHINES}
    alone = found[1]["photos_per_s"]
    for n, one in found.items():
        one["efficiency"] = round(one["photos_per_s"] / n / alone, 3)
    print(json.dumps({"share_of_a_cpu": SHARE, "machines": found}, indent=1))


def _run(data: Path, machines: int) -> dict[str, float]:
    """Seconds of the whole job, and photos per second in its later half."""
    job, out = Bulk(data), data / f"out-{machines}"
    job.workers = machines
    with Bed(machines, 2, RAY_scheduler_spread_threshold="0.0") as bed:
        command = job.process(out, bed.address)
        started, times = time.monotonic(), list[float]()
        process, limited = bed.desk.spawn(command, data / "log"), False
        while process.poll() is None:
            done = job.done(out)
            if done >= machines and not limited:
                limited = True
                for machine in bed.workers:
                    machine.limit(SHARE)
            times += [time.monotonic() - started] * (done - len(times))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        if process.returncode:
            sys.exit((data / "log").read_text())
    counted = times[len(times) // 2 :]
    rate = (len(counted) - 1) * CHUNK / (counted[-1] - counted[0])
    return {"seconds": round(seconds, 1), "photos_per_s": round(rate, 3)}


if __name__ == "__main__":
    main()
