"""`anonymousnet cluster plan --here` against whole jobs: what it says of two workers, and what they took.

The yardstick is laid on before and after each job: a machine that others share changes its speed within minutes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from anonymousnet.cluster.plan import Phase, make_plan, rates
from anonymousnet.cluster.sizes import Size
from anonymousnet.cluster.yardstick import speed
from anonymousnet.config import Config
from anonymousnet.pipelines.bulk import anonymize
from anonymousnet.pipelines.preprocess import preprocess
from anonymousnet.pipelines.train import train
from anonymousnet.training.tasks import TASKS
from tests.bench.bench_preprocess import _photos
from tests.bench.bench_train import BATCH, _shards

STEPS = 40
FACES = {"preprocess": 2000, "bulk": 640, "train attributes": STEPS * BATCH}
"""Photos, or faces seen in training. Other sizes than the rates were taken at."""
WORKERS = 2
TRAINING = {
    "train": {"steps": STEPS, "batch": BATCH, "checkpoint_every": 1000, "validate_every": 1000},
    "scale": {"zero": 1, "workers": WORKERS},
}


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photos(folder / "all")
        for job in ("preprocess", "bulk"):
            some(folder / "all", folder / job, FACES[job])
        _shards(folder / "rendered")
        config = Config.load(None, [f"release.key_file={folder / 'key'}"])
        jobs: dict[str, Callable[[], float]] = {
            "preprocess": lambda: preprocess(str(folder / "preprocess"), str(folder / "shards"), shards=20).seconds,
            "bulk": lambda: anonymize(str(folder / "bulk"), str(folder / "out"), config, workers=WORKERS).seconds,
            "train attributes": lambda: trained(str(folder / "rendered"), str(folder / "run")),
        }
        speeds = [speed()]
        for job, run in jobs.items():
            seconds = run()
            speeds.append(speed())
            core = (speeds[-2] + speeds[-1]) / 2
            said = _phase(job, core).hours * 3600
            print(f"{job:<16} {FACES[job]} faces: planned {said:5.1f} s at {core:.2f} of the measured machine's speed, "
                  f"took {seconds:5.1f} s, ratio {said / seconds:.2f}", flush=True)  # fmt: skip
        sizes = [_bytes(folder / place) / FACES["bulk"] for place in ("out", "out-private")]
    planned = [rates()["bulk"][f"{what}_bytes_per_photo"] for what in ("released", "audit")]
    print("bulk stores a photo, released and audit: planned {:.0f} and {:.0f} bytes, took {:.0f} and {:.0f}".format(
        *planned, *sizes))  # fmt: skip


def trained(data: str, out: str) -> float:
    """Seconds of the training job."""
    return train(TASKS["attributes"], Config.model_validate(TRAINING), data, out).seconds


def some(photos: Path, folder: Path, n: int) -> None:
    """A folder with the first n photos."""
    folder.mkdir()
    for path in sorted(photos.iterdir())[:n]:
        os.link(path, folder / path.name)


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*.*"))


def _phase(job: str, core: float) -> Phase:
    machines = Size.parse("1x0")
    plan = make_plan(FACES[job], machines, Config.model_validate(TRAINING), workers=WORKERS, speed=core)
    return next(phase for phase in plan.phases if phase.name == job)


if __name__ == "__main__":
    main()
