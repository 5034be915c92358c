"""Ray Train with DeepSpeed against the plain loop: steps per second of task `attributes`, same batches, once running.

One worker of one thread against the loop with one thread; two such workers against the loop with two.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from anonymousnet.config import Config
from anonymousnet.data.shards import make_card, shard_parquet, summarize
from anonymousnet.data.synthetic import synthetic_dataset

FACES, PX, BATCH, STEPS = 640, 128, 64, 26
FIRST = 8
"""Steps that are not counted: what starts, starts in them."""
SETTINGS = {
    "train": {"steps": STEPS, "batch": BATCH, "px": PX, "checkpoint_every": 1000, "validate_every": 1000},
    "scale": {"zero": 1},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _shards(folder / "shards")
        for workers in (1, 2):
            plain = _in_process("plain", folder, workers)
            ours = _in_process("scaled", folder, workers)
            print(f"plain loop, {workers} thread(s)                {plain:5.2f} steps/s of {BATCH} faces, {PX} px")
            print(f"Ray Train + DeepSpeed, {workers} worker(s)     {ours:5.2f} steps/s, ratio {ours / plain:.2f}")


def plain(folder: Path, threads: int) -> float:
    """Steps per second of the loop, in this process."""
    import torch

    from anonymousnet.device import arithmetic
    from anonymousnet.training.data import rows_of_step
    from anonymousnet.training.loop import build, take_step
    from anonymousnet.training.tasks import TASKS, training_tables

    torch.set_num_threads(threads)
    config, kind = Config.model_validate(SETTINGS), TASKS["attributes"]
    settings, where = config.train.over(kind.defaults), arithmetic("cpu", "auto")
    data = training_tables(folder / "shards", PX, 0)[0]
    task, engines = build(kind, 0, settings, data, where)
    for step in range(STEPS):
        if step == FIRST:
            started = time.monotonic()
        faces = data.batch(rows_of_step(0, step, BATCH, len(data), data.files), where[0])
        take_step(task, engines, faces, step, 0, where)
    return (STEPS - FIRST) / (time.monotonic() - started)


def scaled(folder: Path, workers: int) -> float:
    """Steps per second of as many workers, from step FIRST on."""
    from anonymousnet.pipelines.train import train
    from anonymousnet.training.tasks import TASKS

    seen: dict[int, float] = {}

    def told(state: dict[str, Any]) -> None:
        seen[state["step"]] = state["beat"]

    config = Config.model_validate({**SETTINGS, "scale": {"zero": 1, "workers": workers}})
    train(TASKS["attributes"], config, str(folder / "shards"), str(folder / f"out{workers}"), told=told)
    first, last = min(s for s in seen if s >= FIRST), max(seen)
    return (last - first) / (seen[last] - seen[first])


def _in_process(which: str, folder: Path, n: int) -> float:
    """In a process of its own: the number of threads is fixed once torch has used them."""
    code = f"import pathlib, tests.bench.bench_train as b; print(b.{which}(pathlib.Path({str(folder)!r}), {n}))"
    threads = str(n) if which == "plain" else "1"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=subprocess.PIPE, check=True
    )
    return float(done.stdout.split()[-1])


def _shards(root: Path) -> None:
    """Rendered faces, preprocessed."""
    images, attributes, people, _ = synthetic_dataset(160, PX, 40, 0)
    summaries = []
    for split, rows in (("train", range(FACES)), ("validation", range(32))):
        table = []
        for i in rows:
            sink = io.BytesIO()
            Image.fromarray(images[i % 160]).save(sink, "JPEG", quality=95, subsampling=0)
            table.append({
                "name": f"{i}.jpg", "face": 0, "image": sink.getvalue(), "attributes": attributes[i % 160].tolist(),
                "identity": int(people[i % 160]), "points": [0.0] * 10, "score": 1.0, "sharpness": 1.0, "size": 128.0,
                "landmarks": None,
            })  # fmt: skip
        data = shard_parquet(table, "job", len(table), [])
        file = f"{split}/part-00000.parquet"
        (root / file).parent.mkdir(parents=True)
        (root / file).write_bytes(data)
        summaries.append(summarize(data, file, "job"))
    (root / "card.json").write_text(json.dumps(make_card("job", "bench", "photos", PX, {}, summaries)))


if __name__ == "__main__":
    main()
