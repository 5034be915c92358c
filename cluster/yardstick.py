"""How fast a core of this machine is beside one of the machine that the plan's rates were measured on.

The yardstick is the four stages over sixteen rendered faces, again and again, on all cores at once, as a job's workers
do it: machines of one name differ by a half, and one machine from one day to the next.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

from anonymousnet.cluster.plan import rates

SECONDS = 10.0
FACES = 16


def speed() -> float:
    """Of a core here, that of the measured machine being 1."""
    return faces_per_second() / float(rates()["yardstick"]["faces_per_s"])


def faces_per_second(seconds: float = SECONDS) -> float:
    """What one core does while all are busy, over so many seconds once the networks are loaded."""
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(cores) as pool:
        together = manager.Barrier(cores)
        return sum(pool.starmap(_work, [(together, seconds)] * cores, chunksize=1)) / cores


def _work(together: threading.Barrier, seconds: float) -> float:
    """Faces a second of one process, one thread, from when all are `together`."""
    import torch

    from anonymousnet.anonymizer import Anonymizer
    from anonymousnet.config import Config
    from anonymousnet.data.synthetic import render_page
    from anonymousnet.faces import join

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        anonymizer = Anonymizer.load(Config.load(None, ["device=cpu", f"release.key_file={Path(name) / 'key'}"]))
    batch = join([anonymizer.prepare(render_page(0, faces=1, width=480)[0]).batch] * FACES)
    anonymizer.run(batch)
    together.wait()
    started, faces = time.monotonic(), 0
    while (took := time.monotonic() - started) < seconds:
        anonymizer.run(batch)
        faces += len(batch)
    return faces / took
