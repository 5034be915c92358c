"""`anonymousnet cluster plan` against whole jobs on this machine: what it says of two workers, and what they took."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from anonymousnet.cluster.plan import Phase, make_plan, rates
from anonymousnet.cluster.sizes import Size
from anonymousnet.config import Config
from anonymousnet.pipelines.bulk import anonymize_bulk
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
        took = {
            "preprocess": preprocess(str(folder / "preprocess"), str(folder / "shards"), shards=20).seconds,
            "bulk": anonymize_bulk(str(folder / "bulk"), str(folder / "out"), config, workers=WORKERS).seconds,
            "train attributes": train(
                TASKS["attributes"], Config.model_validate(TRAINING), str(folder / "rendered"), str(folder / "run")
            ).seconds,
        }
        sizes = [_bytes(folder / place) / FACES["bulk"] for place in ("out", "out-private")]
    for job, seconds in took.items():
        said = _phase(job)
        print(f"{job:<16} {FACES[job]} faces: planned {said.hours * 3600:5.1f} s, took {seconds:5.1f} s, "
              f"ratio {said.hours * 3600 / seconds:.2f}")  # fmt: skip
    planned = [rates()["bulk"][f"{what}_bytes_per_photo"] for what in ("released", "audit")]
    print("bulk stores a photo, released and audit: planned {:.0f} and {:.0f} bytes, took {:.0f} and {:.0f}".format(
        *planned, *sizes))  # fmt: skip


def some(photos: Path, folder: Path, n: int) -> None:
    """A folder with the first n photos."""
    folder.mkdir()
    for path in sorted(photos.iterdir())[:n]:
        os.link(path, folder / path.name)


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*.*"))


def _phase(job: str) -> Phase:
    machines = Size.parse("1x0")
    plan = make_plan(FACES[job], machines, Config.model_validate(TRAINING), workers=WORKERS)
    return next(phase for phase in plan.phases if phase.name == job)


if __name__ == "__main__":
    main()
