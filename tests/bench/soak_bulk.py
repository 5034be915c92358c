"""`make soak`: a bucket at a time under everything that may happen to it, on a real S3 server with real faces.

    python -m tests.bench.soak_bulk [--objects 2000] [--small] [STEP ...]

Steps: whole (every key accounted for), tamper (verify names what was touched), killed (kill -9 of drivers, a worker and
the server), rivals (two drivers at once), scan (nothing of the source in the release), memory (of the driver, 2,000 and
20,000 keys). Each prints what it measured; the status is 1 when anything is not as it must be. `--small`: untrained
64 px networks, to rehearse. Throughput is bench_bulk's.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from tests.bench import soak_scene
from tests.bench.soak_scene import BUCKET, Scene
from tests.seaweed import Seaweed

SEED = 7
RIVAL_OBJECTS = 400
KEYS = (2_000, 20_000)


class Soak:
    """The steps, in the order in which they build on one another."""

    def __init__(self, scene: Scene, celeba: Path, objects: int, keys: tuple[int, ...]) -> None:
        self.scene, self.keys, self.failed = scene, keys, 0
        if not scene.keys("in"):
            faces = list(soak_scene.faces(celeba, objects + 40))
            odd = soak_scene.odd((data for _, data in faces[objects:]), _wall())
            scene.fill("few", iter(faces[: objects - len(odd)][-RIVAL_OBJECTS:]))
            scene.fill("in", iter([*faces[: objects - len(odd)], *odd.items()]))
        self.source = scene.keys("in")
        self.say("objects in the source", len(self.source), len(set(self.source)) == objects)

    def say(self, what: str, found: Any, holds: bool = True) -> None:
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {what:<62} {found}", flush=True)

    def whole(self) -> None:
        """The undisturbed job: every key accounted for."""
        scene, at = self.scene, self.scene.server.log.stat().st_size
        summary = scene.finish(scene.start("in", "out"), "out")
        lines = [line for _, line in scene.records("out")]
        seen = Counter(line["source"] for line in lines)
        skipped = set(self.source) - seen.keys()
        self.say("every key accounted for: recorded once, or skipped", f"{len(seen)} + {len(skipped)}",
                 max(seen.values()) == 1 and len(seen) + len(skipped) == len(self.source)
                 and len(skipped) == summary["skipped"] and seen.keys() <= set(self.source))  # fmt: skip
        self.say("skipped", sorted(skipped))
        said = {k: summary[k] for k in ("photos", "released", "quarantined", "faces", "reasons", "seconds",
                                        "photos_per_second")}  # fmt: skip
        self.say("summary", said, summary["released"] + summary["quarantined"] == summary["photos"] == len(seen))
        status, answer = scene.verify("out", "--signer", summary["signer"])
        self.say("verify", {k: answer[k] for k in ("whole", "objects", "photos", "counts", "totals")},
                 status == 0 and answer["photos"] == summary["released"])  # fmt: skip
        self.say("ledger (entries, subjects)", scene.spent("out"), scene.spent("out")[0] == summary["faces"])
        gets = Counter(key for _, verb, key in scene.requests(at) if verb == "GET" and key.startswith("in/"))
        self.say("most reads of one source object", max(gets.values()), max(gets.values()) == 1)

    def tamper(self) -> None:
        """One byte changed, one object removed, one added: verify names the three."""
        scene, client = self.scene, self.scene.server.client
        names = sorted(name for name in scene.keys("out") if name.startswith("photos/"))
        changed, removed = random.Random(SEED).sample(names, 2)
        before = {name: scene.get("out", name) for name in (changed, removed)}
        data = bytearray(before[changed])
        data[len(data) // 2] ^= 1
        client.put_object(Bucket=BUCKET, Key=f"out/{changed}", Body=bytes(data))
        client.delete_object(Bucket=BUCKET, Key=f"out/{removed}")
        client.put_object(Bucket=BUCKET, Key="out/photos/added.jpg", Body=before[changed])
        status, found = scene.verify("out", "--any-signer")
        named = (found["changed"], found["missing"], found["extra"])
        self.say("verify names changed, missing and extra", named,
                 status == 1 and named == ([changed], [removed], ["photos/added.jpg"]))  # fmt: skip
        client.delete_object(Bucket=BUCKET, Key="out/photos/added.jpg")
        for name, original in before.items():
            client.put_object(Bucket=BUCKET, Key=f"out/{name}", Body=original)
        status, _ = scene.verify("out", "--any-signer")
        self.say("put right again: verify's status", status, status == 0)

    def killed(self) -> None:
        """Three drivers, a worker and the server killed with -9, a driver asked to end: same bucket, nothing twice."""
        scene, chance, at = self.scene, random.Random(SEED), self.scene.server.log.stat().st_size
        chunks = scene.done("out")
        moments = sorted(chance.uniform(0.03, 0.8) for _ in range(6))
        process, events = scene.start("in", "killed"), list[datetime]()
        for moment, what in zip(moments, ["driver", "worker", "server", "driver", "politely", "driver"], strict=True):
            while (done := scene.done("killed")) < moment * chunks and process.poll() is None:
                time.sleep(0.2)
            time.sleep(chance.uniform(0, 2))  # not always just after a record
            self.say(f"kill: {what}, at {moment:.0%}; chunks recorded", f"{done} of {chunks}", process.poll() is None)
            if process.poll() is not None:
                break  # it was too quick for us
            events.append(datetime.now())
            process = getattr(self, f"_kill_{what}")(process)
        summary = scene.finish(process, "killed")
        self.say("what the last driver says", {k: summary[k] for k in ("kept", "released", "quarantined", "seconds")})
        self._same("killed", summary)
        self._not_twice("killed", at, events)

    def _kill_driver(self, process: Any) -> Any:
        family, started = psutil.Process(process.pid).children(recursive=True), time.monotonic()
        family = [one for one in family if not _is(one, "Agent")]  # Ray's watchers notice a minute later
        process.kill()
        process.wait()
        left = [str(one) for one in psutil.wait_procs(family, 40)[1]]
        self.say("seconds until its Ray had ended by itself; what had not", f"{time.monotonic() - started:.1f}; {left}",
                 not left)  # fmt: skip
        return self.scene.start("in", "killed")

    def _kill_politely(self, process: Any) -> Any:
        """SIGTERM: it says so, lets go of the job, and the next driver need not wait."""
        started = time.monotonic()
        process.terminate()
        status = process.wait()
        took = f"{time.monotonic() - started:.1f}"
        said = (self.scene.folder / "killed.progress").read_text().splitlines()[-1]
        state = self.scene.state("killed")["state"]
        self.say("SIGTERM: status, seconds, state, last words",
                 f"{status}, {took}, {state}, {said}",
                 status == 143 and state == "stopped" and said.startswith("stopped;"))  # fmt: skip
        return self.scene.start("in", "killed")

    def _kill_worker(self, process: Any) -> Any:
        workers: list[psutil.Process] = []
        while not workers and process.poll() is None:
            time.sleep(0.1)
            workers = [one for one in psutil.Process(process.pid).children(recursive=True) if _is(one, "Protect")]
        self.say("workers, of which one is killed", len(workers), bool(workers))
        workers[0].kill()
        return process

    def _kill_server(self, process: Any) -> Any:
        self.scene.server.kill()
        time.sleep(3)
        self.scene.server.start()
        return process

    def _same(self, out: str, summary: dict[str, Any]) -> None:
        """The bucket and the ledger of the undisturbed job."""
        scene, ours, theirs = self.scene, self.scene.hashes(out), self.scene.hashes("out")
        different = [name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)]
        self.say("objects compared with the undisturbed job's, different ones", f"{len(theirs)}, {len(different)}",
                 not different)  # fmt: skip
        self.say("ledger (entries, subjects)", scene.spent(out), scene.spent(out) == scene.spent("out"))
        self.say("verify's status", scene.verify(out, "--signer", summary["signer"])[0])

    def _not_twice(self, out: str, at: int, events: list[datetime]) -> None:
        """From the server's log: what was put twice was in hand at a kill, and nothing recorded was read again."""
        scene = self.scene
        chunk = {line["source"]: f"{out}-audit/{name}" for name, line in scene.records(out)}
        puts, recorded, again = defaultdict[str, list[str]](list), dict[str, str](), list[str]()
        for when, verb, key in scene.requests(at):
            if verb == "PUT":
                recorded.setdefault(key, when)
                if key.startswith(f"{out}/photos/"):
                    puts[key].append(when)
            elif key.startswith("in/") and chunk.get(key[3:]) in recorded:
                again.append(key)
        times = [event.strftime("%H:%M:%S.%f") for event in events]
        unexplained = [
            key for key, whens in puts.items()
            for a, b in pairwise(whens) if not any(a <= event <= b for event in times)
        ]  # fmt: skip
        twice = sum(len(whens) > 1 for whens in puts.values())
        self.say("photos put, of which more than once (in hand at a kill)", f"{len(puts)}, {twice}")
        self.say("put twice without a kill in between", len(unexplained), not unexplained)
        self.say("read again once its record stood", len(again), not again)

    def rivals(self) -> None:
        """Two drivers at once; then one that sleeps, is given up for dead, and wakes."""
        scene = self.scene
        both = [scene.start("few", "rivals") for _ in range(2)]
        ends = sorted(process.wait() for process in both)
        said = (scene.folder / "rivals.progress").read_text()
        self.say("two drivers at once: their status", ends, ends == [0, 2] and "by another driver" in said)
        self._part("rivals")
        slow = scene.start("few", "woken")
        while not scene.done("woken"):
            time.sleep(0.2)
        psutil.Process(slow.pid).suspend()
        heir, owner = scene.start("few", "woken"), scene.state("woken")["owner"]
        while scene.state("woken")["owner"] == owner and heir.poll() is None:
            time.sleep(0.2)
        self.say("the heir took over", "", heir.poll() is None)
        time.sleep(8)  # both are at it for a while: the sleeper's workers never slept
        psutil.Process(slow.pid).resume()
        ends = [slow.wait(), heir.wait()]
        said = (scene.folder / "woken.progress").read_text().splitlines()
        self.say("one that slept, and its heir: their status", ends, 0 in ends and set(ends) <= {0, 2})
        self.say("what was said", [line for line in said if line.startswith("error")])
        self._part("woken")

    def _part(self, out: str) -> None:
        """Some of the undisturbed job's photos: the same bytes under the same names."""
        scene, ours, theirs = self.scene, self.scene.hashes(out), self.scene.hashes("out")
        photos = {name: digest for name, digest in ours.items() if name.startswith("photos/")}
        wrong = [name for name, digest in photos.items() if theirs.get(name) != digest]
        self.say("photos, others than the undisturbed job's", f"{len(photos)}, {len(wrong)}",
                 bool(photos) and not wrong)  # fmt: skip
        spent, faces = scene.spent(out), sum(len(x["faces"]) for _, line in scene.records(out) for x in line["photos"])
        self.say("ledger entries, faces", f"{spent[0]}, {faces}", spent[0] == faces)
        status, _ = scene.verify(out, "--any-signer")
        self.say("verify's status", status, status == 0)

    def scan(self) -> None:
        """Nothing of the source's faces, names and metadata in the whole output bucket."""
        from tests.bench.soak_scan import scan

        found = scan(self.scene, "in", "out")
        self.say("objects, bytes looked at", f"{found.objects}, {found.bytes}")
        self.say("holding a name or a word of the source", len(found.named), not found.named)
        self.say("photos carrying more than pixels", len(found.metadata), not found.metadata)
        self.say("photos made again from blinded sources; others",
                 f"{found.photos}, {found.other}; rounded {found.rounded}",
                 found.photos > 0 and not found.other)  # fmt: skip
        self.say("pixels in masks equal to the source's; by chance", f"{found.same:.4%}; {found.chance:.4%}")

    def memory(self) -> None:
        """The driver's memory does not grow with the number of keys."""
        peaks = []
        for count in self.keys:
            name, wall = f"keys{count}", _wall()
            self.scene.fill(name, ((f"{i % 97:02}/{i:06}.jpg", wall) for i in range(count)))
            process = self.scene.start(name, f"{name}-out", "--set", "bulk.faceless=copy")
            driver, total, own = psutil.Process(process.pid), 0, 0
            while process.poll() is None:
                with driver.oneshot():
                    used = driver.memory_info()
                total, own = max(total, used.rss), max(own, used.rss - used.shared)
                time.sleep(0.2)
            summary = self.scene.finish(process, f"{name}-out")
            self.say(f"{count} keys: peak of the driver, MB (without shared pages)",
                     f"{total / 1e6:.0f} ({own / 1e6:.0f}), {summary['seconds']:.0f} s",
                     summary["released"] == count)  # fmt: skip
            peaks.append(total / 1e6)
        self.say("grown by, MB", f"{peaks[-1] - peaks[0]:.0f}", peaks[-1] - peaks[0] <= 50)


def _is(process: psutil.Process, word: str) -> bool:
    with suppress(psutil.Error):  # it may be gone by now
        return word in " ".join(process.cmdline())
    return False


def _wall() -> bytes:
    """A tiny photo of nothing."""
    import io

    out = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), 180, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def main() -> None:
    steps: dict[str, Callable[[Soak], None]] = {
        name: getattr(Soak, name) for name in ("whole", "tamper", "killed", "rivals", "scan", "memory")
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(steps))
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--keys", type=int, nargs=2, default=KEYS)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the server's data here, and go on with what is there")
    given = parser.parse_args()
    celeba = os.environ.get("ANONYMOUSNET_CELEBA")
    if not celeba:
        sys.exit("set ANONYMOUSNET_CELEBA to CelebA's folder")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        server = Seaweed(folder / "s3", logged=True)
        settings = (f"release.key_file={folder}/key",)
        if given.small:
            from tests.conftest import write_small_weights

            settings = tuple(write_small_weights(folder))
        try:
            server.start().bucket(BUCKET)
            soak = Soak(Scene(folder, server, settings), Path(celeba), given.objects, tuple(given.keys))
            for name in given.steps or steps:
                print(f"\n== {name}: {steps[name].__doc__}", flush=True)
                started = time.monotonic()
                steps[name](soak)
                print(f"      {time.monotonic() - started:.0f} s", flush=True)
        finally:
            server.kill()
    sys.exit(1 if soak.failed else 0)


if __name__ == "__main__":
    main()
