"""`anonymousnet cluster plan` against whole jobs on this machine: what it says of two workers, and what they took."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from anonymousnet.cluster.plan import Phase, make_plan
from anonymousnet.cluster.sizes import Size, fitted
from anonymousnet.config import Config
from anonymousnet.pipelines.bulk import anonymize_bulk
from anonymousnet.pipelines.preprocess import preprocess
from tests.bench.bench_preprocess import _photos

PHOTOS = {"preprocess": 1000, "bulk": 384}
WORKERS = 2


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photos(folder / "all")
        for job, n in PHOTOS.items():
            some(folder / "all", folder / job, n)
        config = Config.load(None, [f"release.key_file={folder / 'key'}"])
        took = {
            "preprocess": preprocess(str(folder / "preprocess"), str(folder / "shards"), shards=10).seconds,
            "bulk": anonymize_bulk(str(folder / "bulk"), str(folder / "out"), config, workers=WORKERS).seconds,
        }
        size = sum(p.stat().st_size for place in ("out", "out-private") for p in (folder / place).rglob("*.*"))
    for job, seconds in took.items():
        said = _phase(job)
        print(f"{job:<11} {PHOTOS[job]} photos: planned {said.hours * 3600:5.1f} s, took {seconds:5.1f} s, "
              f"ratio {said.hours * 3600 / seconds:.2f}")  # fmt: skip
    print(f"bulk stores {size / 1e6:.2f} MB, planned {_phase('bulk').stored_gb * 1e3:.2f}")


def some(photos: Path, folder: Path, n: int) -> None:
    """A folder with the first n photos."""
    folder.mkdir()
    for path in sorted(photos.iterdir())[:n]:
        os.link(path, folder / path.name)


def _phase(job: str) -> Phase:
    machines = Size.parse("1x0")
    plan = make_plan(PHOTOS[job], machines, fitted(Config(), machines), workers=WORKERS)
    return next(phase for phase in plan.phases if phase.name == job)


if __name__ == "__main__":
    main()
