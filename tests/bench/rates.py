"""Measure on this machine, alone, what `anonymousnet cluster plan` reckons with: cluster/rates.json.

    python -m tests.chaos.scaling > scaling.json
    python -m tests.bench.rates scaling.json > cluster/rates.json     # three minutes on two cores; CelebA where it is

Every job runs at two sizes: what both share is its start, the difference is what a photo takes.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

WORKERS = 2
SMALL, LARGE = {"preprocess": 100, "bulk": 64}, {"preprocess": 1000, "bulk": 384}
STEPS = {"attributes": 10, "generator": 12}


def main() -> None:
    """Print the rates as JSON."""
    from tests.bench.bench_preprocess import PHOTOS, _photos

    assert max(LARGE.values()) <= PHOTOS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photos(folder / "all")
        measured = {"preprocess": _preprocess(folder), "bulk": _bulk(folder)}
        measured["bulk"] |= _parts(folder / "all")
        measured["train"] = {"start_s": _train_start(folder)}
        measured["train"] |= {task: _step(task, steps) for task, steps in STEPS.items()}
    scaling = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({
        "provenance": {
            "command": "python -m tests.bench.rates", "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU; one thread per process; local disk",
            "photos": "CelebA, aligned, 178x218" if os.environ.get("ANONYMOUSNET_CELEBA") else "rendered, 178x178",
        },
        **measured, "flops": _flops(), "scaling": {"command": "python -m tests.chaos.scaling", **scaling},
    }, indent=1))  # fmt: skip


def _line(seconds: dict[int, float]) -> dict[str, float]:
    """Start and seconds per photo and worker, from two sizes."""
    (n1, t1), (n2, t2) = sorted(seconds.items())
    each = (t2 - t1) / (n2 - n1)
    return {"photos": n2, "start_s": round(t1 - n1 * each, 2), "worker_s_per_photo": round(each * WORKERS, 5)}


def _some(folder: Path, n: int) -> Path:
    place = folder / f"some-{n}"
    place.mkdir(exist_ok=True)
    for path in sorted((folder / "all").iterdir())[:n]:
        if not (place / path.name).exists():
            os.link(path, place / path.name)
    return place


def _preprocess(folder: Path) -> dict[str, Any]:
    from anonymousnet.pipelines.preprocess import preprocess

    seconds = {}
    for n in (SMALL["preprocess"], LARGE["preprocess"]):
        out = folder / f"shards-{n}"
        seconds[n] = preprocess(str(_some(folder, n)), str(out), shards=max(4, n // 100)).seconds
    size = sum(p.stat().st_size for p in out.rglob("*.parquet"))
    return {**_line(seconds), "shard_bytes_per_photo": round(size / n)}


def _bulk(folder: Path) -> dict[str, Any]:
    """Whole jobs; and of the larger one, what the driver does alone: the survey and the manifest."""
    from anonymousnet.config import Config
    from anonymousnet.pipelines import bulk, manifest

    alone: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            started = time.monotonic()
            try:
                return call(*args)
            finally:
                alone.append(time.monotonic() - started)

        return wrapped

    config, seconds = Config.load(None, [f"release.key_file={folder / 'key'}"]), {}
    for n in (SMALL["bulk"], LARGE["bulk"]):
        source, out = _some(folder, n), folder / f"out-{n}"
        alone.clear()
        with (
            mock.patch.object(bulk, "survey", timed(bulk.survey)),
            mock.patch.object(manifest, "publish_manifest", timed(manifest.publish_manifest)),
        ):
            seconds[n] = bulk.anonymize_bulk(str(source), str(out), config, workers=WORKERS).seconds
    sizes = {
        "source_bytes_per_photo": sum(p.stat().st_size for p in source.iterdir()) / n,
        "released_bytes_per_photo": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / n,
        "audit_bytes_per_photo":
            sum(p.stat().st_size for p in Path(f"{out}-private").rglob("*") if p.is_file()) / n,
    }  # fmt: skip
    return {
        **_line(seconds), "driver_s_per_photo": round(sum(alone) / n, 6),
        **{key: round(value) for key, value in sizes.items()},
    }  # fmt: skip


def _parts(photos: Path, n: int = 64) -> dict[str, float]:
    """Of a photo's time in one process: the networks of the four stages and the audit's, and all the rest."""
    from anonymousnet.anonymizer import Anonymizer
    from anonymousnet.config import Config
    from anonymousnet.data.images import encode_photo
    from anonymousnet.errors import AnonymousNetError
    from anonymousnet.protect import protect

    anonymizer = Anonymizer.load(Config(), bytes(32))
    networks = 0.0
    inner, judge = Anonymizer.run, Anonymizer.likeness

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            nonlocal networks
            started = time.monotonic()
            try:
                return call(*args)
            finally:
                networks += time.monotonic() - started

        return wrapped

    data = [path.read_bytes() for path in sorted(photos.iterdir())[: n + 16]]
    with mock.patch.object(Anonymizer, "run", timed(inner)), mock.patch.object(Anonymizer, "likeness", timed(judge)):
        list(protect(anonymizer, ((one, None) for one in data[n:])))  # warm
        networks, started = 0.0, time.monotonic()
        for done in protect(anonymizer, ((one, None) for one in data[:n])):
            if not isinstance(done, AnonymousNetError):
                encode_photo(done.release.image, "same", 95)
        whole = time.monotonic() - started
    return {"networks_s_per_photo": round(networks / n, 5), "rest_s_per_photo": round((whole - networks) / n, 5)}


def _train_start(folder: Path) -> float:
    """Seconds of a scaled run of two steps."""
    from anonymousnet.config import Config
    from anonymousnet.pipelines.preprocess import preprocess
    from anonymousnet.pipelines.train import train
    from anonymousnet.training.tasks import TASKS
    from tests.chaos.jobs import write_celeba

    write_celeba(folder / "celeba", 60)
    preprocess(str(folder / "celeba"), str(folder / "few"), face_px=64, shards=2)
    sets = ["train.steps=2", "train.batch=4", "train.px=64", "train.width=8", "scale.workers=1", "precision=fp32"]
    done = train(TASKS["attributes"], Config.load(None, sets), str(folder / "few"), str(folder / "run"))
    return round(done.seconds, 1)


def _step(task: str, steps: int) -> dict[str, float]:
    """Seconds per face of a training step of the plain loop, one thread, without what the first steps take."""
    from anonymousnet.config import Config
    from anonymousnet.device import arithmetic
    from anonymousnet.training.data import rows_of_step
    from anonymousnet.training.loop import build, take_step
    from anonymousnet.training.tasks import TASKS, training_tables

    config, kind = Config(), TASKS[task]
    settings, where = config.train.over(kind.defaults), arithmetic("cpu", "auto")
    batch = settings.batch or 2
    data = training_tables(None, settings.px or 128, 0)[0]
    made, engines = build(kind, 0, settings, data, where)
    started = 0.0
    for step in range(steps):
        if step == 3:
            started = time.monotonic()
        faces = data.batch(rows_of_step(0, step, batch, len(data), data.files), where[0])
        take_step(made, engines, faces, step, 0, where)
    return {"worker_s_per_face": round((time.monotonic() - started) / (steps - 3) / batch, 6)}


def _flops() -> dict[str, float]:
    """Floating-point operations of a face's way through the shipped networks, forward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from anonymousnet.anonymizer import Anonymizer, join
    from anonymousnet.config import Config
    from anonymousnet.data.synthetic import render_page

    anonymizer = Anonymizer.load(Config(), bytes(32))
    prepared = anonymizer.prepare(render_page(0, faces=1, width=240)[0])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        done = anonymizer.run(join([prepared.batch]))
        anonymizer.likeness(prepared, done)
    return {"bulk_per_face": float(counter.get_total_flops()) / len(prepared.batch)}


if __name__ == "__main__":
    main()
