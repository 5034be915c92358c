"""Measure what `anonymousnet cluster plan` reckons with: cluster/rates.json.

    python -m tests.chaos.scaling > scaling.json
    python -m tests.bench.rates scaling.json > cluster/rates.json     # two minutes; CelebA where it is

The work is the jobs' own code, called in this process, one thread, and timed by the CPU: what else the machine is doing
hardly matters. How long jobs take to start is timed by the clock, on jobs of a few photos. `tests.bench.bench_plan`
holds the plan against whole jobs.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

PHOTOS, FEW = 256, 8
STEPS = {"attributes": 10, "generator": 12}


def main() -> None:
    """Print the rates as JSON."""
    from tests.bench.bench_preprocess import _photos

    scaling = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _photos(folder / "all")
        some(folder / "all", folder / "some", PHOTOS)
        some(folder / "all", folder / "few", FEW)
        measured = {"preprocess": _preprocess(folder), "bulk": _bulk(folder)}
        measured["train"] = {"start_s": _train_start(folder)}
        measured["train"] |= {task: _step(task, steps) for task, steps in STEPS.items()}
    print(json.dumps({
        "provenance": {
            "command": "python -m tests.bench.rates", "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU; CPU seconds of one thread; local disk",
            "photos": "CelebA, aligned, 178x218" if os.environ.get("ANONYMOUSNET_CELEBA") else "rendered, 178x178",
        },
        **measured, "flops": _flops(), "scaling": {"command": "python -m tests.chaos.scaling", **scaling},
    }, indent=1))  # fmt: skip


def some(photos: Path, folder: Path, n: int) -> None:
    """A folder with the first n photos."""
    folder.mkdir()
    for path in sorted(photos.iterdir())[:n]:
        os.link(path, folder / path.name)


def _preprocess(folder: Path) -> dict[str, Any]:
    """Read, process and write one shard, as the job's tasks and actors do."""
    from anonymousnet.config import AlignConfig
    from anonymousnet.pipelines import preprocess as job

    source = job.read_source(job.storage_of(str(folder / "some")))
    (shard,) = job.plan_shards(source, 1)
    what = job.Job("", source.place, job.storage_of(str(folder / "shards")), source.layout, 128, AlignConfig())
    actor = job._Process(what)
    seconds = 0.0
    for _ in range(2):  # the first time warms up
        started = time.process_time()
        job._write(actor(job._read({"shard": pickle.dumps(shard)}, what)), what)
        seconds = time.process_time() - started
    size = sum(p.stat().st_size for p in (folder / "shards").rglob("*.parquet"))
    started = time.monotonic()
    job.preprocess(str(folder / "few"), str(folder / "few-shards"), shards=2)
    start = time.monotonic() - started
    return {
        "photos": PHOTOS, "start_s": round(start, 1), "worker_s_per_photo": round(seconds / PHOTOS, 5),
        "shard_bytes_per_photo": round(size / PHOTOS),
    }  # fmt: skip


def _bulk(folder: Path) -> dict[str, Any]:
    """Read, protect and publish all chunks, as the job's tasks and actors do; then the driver's manifest."""
    from anonymousnet.anonymizer import Anonymizer
    from anonymousnet.config import Config
    from anonymousnet.pipelines import bulk, manifest
    from anonymousnet.pipelines.bulk_publish import publish
    from anonymousnet.pipelines.bulk_work import Protect, read

    source, out, audit = (bulk.storage_of(str(folder / name)) for name in ("some", "out", "audit"))
    begun = time.process_time()
    surveyed = bulk.survey(source)
    driver = time.process_time() - begun
    config, anonymizer = bulk._resolved(Config.load(None, [f"release.key_file={folder / 'key'}"]), None)
    job = bulk._job(source, out, audit, surveyed, config, anonymizer)
    actor, networks, spent = Protect(job, {}), [0.0], [0.0, 0.0]
    timed = {name: _timed(getattr(Anonymizer, name), networks) for name in ("run", "likeness")}
    with mock.patch.multiple(Anonymizer, **timed):
        actor({"number": 0, "objects": _first(read(job, surveyed.segments[0]))})  # warms up
        networks[0] = 0.0
        for table in (table for segment in surveyed.segments for table in read(job, segment)):
            started = time.process_time()
            done = actor({"number": table["number"][0].as_py(), "objects": table["objects"][0].as_py()})
            spent[0] += time.process_time() - started
            started = time.process_time()
            publish(done, job, None)
            spent[1] += time.process_time() - started
    begun = time.process_time()
    manifest.publish_manifest(job, surveyed, anonymizer)
    driver += time.process_time() - begun
    started = time.monotonic()
    bulk.anonymize_bulk(str(folder / "few"), str(folder / "few-out"), config, workers=1)
    start = time.monotonic() - started
    work = sum(spent)
    return {
        "photos": PHOTOS, "start_s": round(start, 1), "worker_s_per_photo": round(work / PHOTOS, 5),
        "networks_s_per_photo": round(networks[0] / PHOTOS, 5),
        "rest_s_per_photo": round((work - networks[0]) / PHOTOS, 5),
        "driver_s_per_photo": round(driver / PHOTOS, 6),
        **{f"{name}_bytes_per_photo": round(_bytes(folder / place) / PHOTOS)
           for name, place in (("source", "some"), ("released", "out"), ("audit", "audit"))},
    }  # fmt: skip


def _timed(call: Any, spent: list[float]) -> Any:
    def wrapped(*args: Any) -> Any:
        started = time.process_time()
        try:
            return call(*args)
        finally:
            spent[0] += time.process_time() - started

    return wrapped


def _first(tables: Any) -> bytes:
    found: bytes = next(iter(tables))["objects"][0].as_py()
    return found


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


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
            started = time.process_time()
        faces = data.batch(rows_of_step(0, step, batch, len(data), data.files), where[0])
        take_step(made, engines, faces, step, 0, where)
    return {"worker_s_per_face": round((time.process_time() - started) / (steps - 3) / batch, 6)}


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
