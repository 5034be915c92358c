"""The jobs that are disturbed: how each is started, how far it is, and what of its result is lost.

All run as an operator would run them: the command, on the desk, with --address. The data is rendered, the networks are
small and random: what is tested is that nothing is lost, not what is painted.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

from PIL import Image

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.synthetic import render_page, synthetic_dataset
from anonymousnet.pipelines.preprocess import preprocess
from tests.conftest import write_small_weights


class Job(ABC):
    """One kind of job. `data` holds what it reads, `out` what it writes."""

    name: str
    units: int
    """How many parts its progress has."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def process(self, out: Path, address: str) -> list[str]:
        """What is started on the desk."""
        return [sys.executable, "-m", "anonymousnet.cluster.cli", *self.command(out, address)]

    @abstractmethod
    def command(self, out: Path, address: str) -> list[str]:
        """Words behind `anonymousnet`."""

    @abstractmethod
    def done(self, out: Path) -> int:
        """Parts that are finished, by what stands on the disk."""

    @abstractmethod
    def lost(self, out: Path, undisturbed: Path) -> str:
        """What the disturbed run lacks, or has otherwise, than the undisturbed one; empty: nothing."""


class Preprocess(Job):
    """600 faces in 24 shards."""

    name, units = "preprocess", 24

    def command(self, out: Path, address: str) -> list[str]:
        return ["preprocess", str(self.data / "celeba"), str(out), "--shards", "24", "--address", address]

    def done(self, out: Path) -> int:
        return len(list(out.glob("*/part-*.parquet"))) - len(list(out.glob("errors/*.parquet")))

    def lost(self, out: Path, undisturbed: Path) -> str:
        ours, theirs = (json.loads((p / "card.json").read_text()) for p in (out, undisturbed))
        return "" if ours["content_sha256"] == theirs["content_sha256"] else (
            f"{theirs['counts']['faces'] - ours['counts']['faces']} faces, or other ones"
        )  # fmt: skip


class Bulk(Job):
    """384 photos, in 12 chunks, with a ledger."""

    name, units = "bulk", 12
    workers = 2

    def command(self, out: Path, address: str) -> list[str]:
        settings = [*_weights(self.data), f"release.ledger={out}.ledger"]
        return ["anonymize", str(self.data / "photos"), str(out), "--audit", f"{out}-audit",
                "--workers", str(self.workers), "--address", address, *_sets(settings)]  # fmt: skip

    def done(self, out: Path) -> int:
        return len(list(Path(f"{out}-audit").glob("*/records/*.jsonl")))

    def lost(self, out: Path, undisturbed: Path) -> str:
        ours, theirs = _hashes(out), _hashes(undisturbed)
        spent = [_count(Path(f"{p}.ledger")) for p in (out, undisturbed)]
        said = []
        if ours != theirs:
            said.append(f"{len(theirs.items() - ours.items())} of {len(theirs)} objects")
        if spent[0] != spent[1]:
            said.append(f"the ledger has {spent[0]} entries instead of {spent[1]}")
        return ", ".join(said)


class Train(Job):
    """240 steps of the attribute network under DeepSpeed, on two workers on two machines."""

    name, units = "train", 240

    def command(self, out: Path, address: str) -> list[str]:
        settings = [
            f"train.steps={self.units}", "train.batch=16", "train.px=64", "train.width=8", "train.checkpoint_every=20",
            "train.validate_every=1000", "precision=fp32", "scale.failures=6", "scale.deadline_s=240",
        ]  # fmt: skip
        return ["train", "attributes", "--data", str(self.data / "shards"), "--out", str(out), "--workers", "2",
                "--nodes", "2", "--zero", "2", "--address", address, *_sets(settings)]  # fmt: skip

    def done(self, out: Path) -> int:
        return max((int(p.parent.name[5:-5]) for p in out.glob("step-*.ckpt/run.json")), default=0)

    def lost(self, out: Path, undisturbed: Path) -> str:
        ours, theirs = (
            {row["step"]: row for row in map(json.loads, (p / "losses.jsonl").read_text().splitlines())}
            for p in (out, undisturbed)
        )
        other = [step for step, row in theirs.items() if ours.get(step) != row]
        return f"the losses of steps {other[0]} to {other[-1]} are others" if other else ""


class Perturb(Job):
    """The perturbation, 60 batches on two workers."""

    name, units = "perturbation", 60

    def command(self, out: Path, address: str) -> list[str]:
        return ["perturbation", "--data", str(self.data / "celeba"), "--out", str(out), "--faces", "96", "--epochs",
                "20", "--workers", "2", "--address", address, *_sets(_weights(self.data))]  # fmt: skip

    def done(self, out: Path) -> int:
        return 3 * len(list((out / "versions").glob("[0-9]*")))

    def lost(self, out: Path, undisturbed: Path) -> str:
        from safetensors.numpy import load_file

        ours, theirs = (load_file(p / "weights" / "model.safetensors")["v"] for p in (out, undisturbed))
        apart = float(abs(ours - theirs).max())
        return f"v is {apart:.1e} apart" if apart > 1e-5 else ""


class Serve(Job):
    """400 requests of four clients at once to the service, two replicas of every stage."""

    name, units = "serve", 400

    def process(self, out: Path, address: str) -> list[str]:
        root = Path(__file__).parents[2]  # a machine's processes start elsewhere
        return ["env", f"PYTHONPATH={root}", sys.executable, "-m", "tests.chaos.load", *self.command(out, address)]

    def command(self, out: Path, address: str) -> list[str]:
        stages = ("ingress", "align", "predict", "obfuscate", "synthesize", "perturb")
        sizes = [f"serve.{stage}.{key}" for stage in stages for key in ("min=2", "max=2", "cpus=0.3")]
        return [str(out), address, str(self.units), *_weights(self.data), *sizes]

    def done(self, out: Path) -> int:
        answers = out / "answers.jsonl"
        return answers.read_text().count("\n") if answers.exists() else 0

    def lost(self, out: Path, undisturbed: Path) -> str:
        answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
        counts = Counter(f"status {one['status']}" for one in answers if one["status"] != 200)
        return ", ".join(f"{n} requests: {status}" for status, n in sorted(counts.items()))


JOBS: tuple[type[Job], ...] = (Preprocess, Train, Perturb, Bulk, Serve)


def prepare(data: Path) -> None:
    """Write what all jobs read."""
    weights = data / "weights"
    weights.mkdir(parents=True)
    (data / "weights.json").write_text(json.dumps(write_small_weights(weights)))
    (data / "photos").mkdir()
    pages = [render_page(i, faces=1, width=240)[0] for i in range(8)]
    for i in range(384):
        page = pages[i % 8]
        Image.fromarray(page.copy()).rotate(0, translate=(i // 8 % 9, i // 72)).save(
            data / "photos" / f"{i:04}.jpg", quality=92
        )
    write_celeba(data / "celeba")
    preprocess(str(data / "celeba"), str(data / "shards"), face_px=64, shards=6)


def write_celeba(folder: Path, n: int = 600) -> None:
    """Rendered faces in CelebA's layout, a sixth of them held out."""
    (folder / "img_align_celeba").mkdir(parents=True)
    images, attributes, people, _ = synthetic_dataset(60, 178, 12, 1)
    names = [f"{i + 1:06}.jpg" for i in range(n)]
    for i, name in enumerate(names):
        tall = Image.fromarray(images[i % 60]).resize((178, 178))
        page = Image.new("RGB", (178, 218))
        page.paste(tall.resize((178, 218)).rotate(0, translate=(i // 60, 0)), (0, 0))
        page.save(folder / "img_align_celeba" / name, quality=90)
    rows = [f"{n} " + " ".join("1" if a else "-1" for a in attributes[i % 60]) for i, n in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(n), " ".join(ATTRIBUTES), *rows, ""]))
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {int(i % 6 == 0)}\n" for i, n in enumerate(names)))
    (folder / "identity_CelebA.txt").write_text("".join(f"{n} {people[i % 60] + 1}\n" for i, n in enumerate(names)))


def _weights(data: Path) -> list[str]:
    found: list[str] = json.loads((data / "weights.json").read_text())
    return found


def _sets(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip


def _count(ledger: Path) -> int:
    with sqlite3.connect(ledger) as books:
        return int(books.execute("SELECT count(*) FROM spends").fetchone()[0])
