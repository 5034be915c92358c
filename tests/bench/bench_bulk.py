"""`anonymousnet anonymize` from bucket to bucket against the plain loop over the same photos, decoded beforehand.

The peers take chunks of 32 decoded photos and run the four stages and the audit's recogniser over them with the same
batch size: no storage, no decoding, no encoding, no ledger. One is a process of two threads, as a script would be; the
harder one two processes of one thread each, which share a queue. Ours does all of that, on the same two cores, which
it also shares with the S3 server.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from tests.seaweed import KEYS, Seaweed

PHOTOS, CHUNK, CORES = 960, 32, 2
_anonymizer: Any = None
"""Of a process of a peer."""


class Speed(NamedTuple):
    """How fast a way is."""

    seconds: float
    with_start: float
    """Seconds, with the start and end of its processes."""
    rate: float
    """Photos per second once running."""
    cpu: float
    """CPU seconds per photo once running."""


def main() -> None:
    os.environ |= {**KEYS, "OMP_NUM_THREADS": "1"}  # for the peers' processes as for Ray's
    photos = list(islice(_photos(), PHOTOS))
    with tempfile.TemporaryDirectory() as name:
        settings = (f"release.key_file={name}/key", f"release.ledger={name}/ledger")
        peers = {
            "one process of two threads": _plain_loop(photos, settings[:1], 1, CORES),
            "two processes of one thread": _plain_loop(photos, settings[:1], CORES, 1),
        }
        server = Seaweed(Path(name, "s3"))
        try:
            server.start().bucket("bench")
            for i, photo in enumerate(photos):
                server.client.put_object(Bucket="bench", Key=f"in/{i:06}.jpg", Body=photo)
            ours, released = _bulk(server, settings)
        finally:
            server.kill()
    for way, speed in {**peers, "anonymousnet, with the S3 server's CPU time": ours}.items():
        print(f"{speed.rate:6.2f} photos/s once running, {PHOTOS / speed.with_start:6.2f} with every start; "
              f"CPU seconds a photo {speed.cpu:.3f}: {way}")  # fmt: skip
    for way, peer in peers.items():
        print(f"ratio {ours.rate / peer.rate:.2f} once running, {peer.seconds / ours.seconds:.2f} where Ray is up, "
              f"{peer.with_start / ours.with_start:.2f} with every start; of CPU time {peer.cpu / ours.cpu:.2f}: "
              f"{way}")  # fmt: skip
    print(f"released {released} of {PHOTOS}")


def _photos() -> Iterator[bytes]:
    """Faces of CelebA where it is, else rendered ones."""
    celeba = os.environ.get("ANONYMOUSNET_CELEBA")
    if celeba:
        yield from (path.read_bytes() for path in sorted(Path(celeba, "img_align_celeba").iterdir()))
        return
    import io

    from PIL import Image

    from anonymousnet.data.synthetic import synthetic_dataset

    for image in synthetic_dataset(PHOTOS, 178, 30, 0)[0]:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=92)
        yield out.getvalue()


def _plain_loop(photos: list[bytes], settings: tuple[str, ...], processes: int, threads: int) -> Speed:
    from anonymousnet.data.images import load_photo

    decoded = [load_photo(photo).rgb for photo in photos]
    context, started = multiprocessing.get_context("spawn"), time.monotonic()
    ready = context.Barrier(processes + 1)
    with context.Pool(processes, _load, (ready, settings, threads)) as pool:
        ready.wait()
        begun = time.monotonic()
        chunks = [decoded[i : i + CHUNK] for i in range(0, len(decoded), CHUNK)]
        at = [(time.monotonic(), _cpu(), count) for count in pool.imap_unordered(_work, chunks)]
        ended = time.monotonic()
    return Speed(ended - begun, ended - started, *_steady(at))


def _load(ready: Barrier, settings: tuple[str, ...], threads: int) -> None:
    global _anonymizer
    import torch

    from anonymousnet.anonymizer import Anonymizer
    from anonymousnet.config import Config

    os.environ["OMP_NUM_THREADS"] = str(threads)  # the detector's
    torch.set_num_threads(threads)
    _anonymizer = Anonymizer.load(Config.load(None, settings))
    ready.wait()


def _work(chunk: list[np.ndarray]) -> int:
    from anonymousnet.protect import protect

    return len(list(protect(_anonymizer, ((photo, None) for photo in chunk))))


def _bulk(server: Seaweed, settings: tuple[str, ...]) -> tuple[Speed, int]:
    """Ours, and how many photos were released."""
    from anonymousnet.config import Config
    from anonymousnet.pipelines.bulk import anonymize
    from anonymousnet.pipelines.session import ray_session

    started, at = time.monotonic(), list[tuple[float, float, int]]()

    def watched(tallies: Iterable[dict[str, int]], *_: int) -> Iterable[dict[str, int]]:
        for tally in tallies:
            at.append((time.monotonic(), _cpu(), tally["photos"]))
            yield tally

    with ray_session():
        begun = time.monotonic()
        done = anonymize(
            "s3://bench/in", "s3://bench/out", Config.load(None, settings), "s3://bench/audit",
            endpoint_url=server.endpoint, workers=CORES, progress=watched,
        )  # fmt: skip
        ended = time.monotonic()
    return Speed(ended - begun, time.monotonic() - started, *_steady(at)), done.released


def _cpu() -> float:
    """CPU seconds of this process and all that it has started and that still live."""
    here = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in [here, *here.children(recursive=True)])


def _steady(at: list[tuple[float, float, int]]) -> tuple[float, float]:
    """Photos per second, and CPU seconds per photo, between the moments when a tenth and nine tenths were done."""
    done = np.cumsum([count for *_, count in at])
    a, b = (int(np.searchsorted(done, share * done[-1])) for share in (0.1, 0.9))
    photos = float(done[b] - done[a])
    return photos / (at[b][0] - at[a][0]), (at[b][1] - at[a][1]) / photos


if __name__ == "__main__":
    main()
