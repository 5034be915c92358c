"""What the bulk soak works on: a bucket of real and odd photos; the command line with its server, key and ledger."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.seaweed import KEYS, Seaweed

BUCKET = "soak"
THREADS = 8
WORDS = ("anna-smith", "Anna Smith", "taken by", "Exif", "ns.adobe", "ICC_PROFILE", "GPS")
"""What names and metadata of the source hold, and no released object may."""


def faces(celeba: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """All photos as taken, and aligned faces up to `count`; every third with EXIF and a comment spliced in."""
    paths = [*sorted((celeba / "img_celeba").glob("*.jpg")), *sorted((celeba / "img_align_celeba").glob("*.jpg"))]
    for i, path in enumerate(paths[:count]):
        data = path.read_bytes()
        if i % 3 == 0:
            data = data[:2] + _segment(0xE1, _exif(i)) + _segment(0xFE, b"taken by anna-smith") + data[2:]
        yield f"{path.parent.name}/anna-smith-{path.name}", data


def odd(faces: Iterator[bytes], faceless: bytes) -> dict[str, bytes]:
    """One of each kind of bad luck, by name. What the soak's server will not keep (`..`, `//`) is for the tests.

    Each takes a face of its own: the same photo twice is released twice and spends once, and the ledger is counted.
    """
    bomb, pdf = io.BytesIO(), _encoded(_image(next(faces)), "PDF")
    Image.new("L", (10_000, 10_000)).save(bomb, "PNG")
    turned, cut = next(faces), next(faces)
    names = ["a b  c.jpg", "łódź/фото ü 🙂.jpg", "a%2Fb.jpg", "a+b&c=d#e?.jpg", "new\nline.jpg", "quote\"'.jpg",
             f"{'l' * 200}.jpg", "UPPER.JPG", "wrong-name.png", ".hidden.jpg", "..jpg", "...jpg"]  # fmt: skip
    return {
        "odd/zero.jpg": b"", "odd/cut.jpg": cut[: len(cut) // 2], "odd/cut.png": _encoded(_image(cut), "PNG")[:9000],
        "odd/text.jpg": b"this is no picture\n" * 40, "odd/pdf.jpg": pdf, "odd/paper.pdf": pdf,
        "odd/bomb.png": bomb.getvalue(), "odd/wall.jpg": faceless, "odd/noise.webp": os.urandom(4000),
        "odd/readme.txt": b"no photo", **{f"odd/{name}": next(faces) for name in names},
        "odd/grey.png": _encoded(_image(next(faces)).convert("L"), "PNG"),
        "odd/cmyk.jpg": _encoded(_image(next(faces)).convert("CMYK"), "JPEG"),
        "odd/clear.png": _encoded(_transparent(_image(next(faces))), "PNG"),
        **{f"odd/photo.{kind}": _encoded(_image(next(faces)), kind.upper()) for kind in ("webp", "gif", "tiff")},
        "odd/turned.jpg": turned[:2] + _segment(0xE1, _exif(0, orientation=6)) + turned[2:],
    }  # fmt: skip


def _image(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.convert("RGB")


def _exif(number: int, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B], exif[0x010E] = orientation, "Anna Smith", f"holiday {number}"
    return exif.tobytes()


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def _encoded(image: Image.Image, format: str) -> bytes:
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def _transparent(image: Image.Image) -> Image.Image:
    alpha = np.full((image.height, image.width), 255, np.uint8)
    alpha[: image.height // 2] = 90
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


@dataclass(frozen=True)
class Scene:
    """A server, a folder for key and ledgers, and what every command is given."""

    folder: Path
    server: Seaweed
    settings: tuple[str, ...]

    def fill(self, prefix: str, objects: Iterator[tuple[str, bytes]]) -> list[str]:
        """Put objects under a prefix; their names."""

        def put(item: tuple[str, bytes]) -> str:
            self.server.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{item[0]}", Body=item[1])
            return item[0]

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(put, objects))

    def keys(self, prefix: str) -> list[str]:
        """Names under a prefix."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [entry["Key"][len(prefix) + 1 :] for page in pages for entry in page.get("Contents", [])]

    def get(self, prefix: str, name: str) -> bytes:
        """One object."""
        return bytes(self.server.client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read())

    def hashes(self, prefix: str) -> dict[str, str]:
        """SHA-256 of every object under a prefix."""
        names = self.keys(prefix)
        with ThreadPoolExecutor(THREADS) as pool:
            digests = pool.map(lambda name: hashlib.sha256(self.get(prefix, name)).hexdigest(), names)
            return dict(zip(names, digests, strict=True))

    def records(self, out: str) -> list[tuple[str, dict[str, Any]]]:
        """(name of the chunk's record, record of an object) of everything that a job did."""
        names = [name for name in self.keys(f"{out}-audit") if "/records/" in name]
        return [(n, json.loads(line)) for n in sorted(names) for line in self.get(f"{out}-audit", n).splitlines()]

    def done(self, out: str) -> int:
        """Chunks whose record stands."""
        return sum("/records/" in name for name in self.keys(f"{out}-audit"))

    def state(self, out: str) -> dict[str, Any]:
        """What a job's last driver said of itself."""
        name = next(name for name in self.keys(f"{out}-audit") if name.startswith("states/"))
        found: dict[str, Any] = json.loads(self.get(f"{out}-audit", name))
        return found

    def start(self, source: str, out: str, *more: str) -> subprocess.Popen[str]:
        """`anonymousnet anonymize --json` from one prefix to another, with a ledger of its own."""
        ledger = f"release.ledger={self.folder}/{out}.ledger"
        words = ["anonymize", f"s3://{BUCKET}/{source}", f"s3://{BUCKET}/{out}", "--audit", f"s3://{BUCKET}/{out}-audit",
                 "--endpoint-url", self.server.endpoint, "--json", *more]  # fmt: skip
        command = [sys.executable, "-m", "anonymousnet.cluster.cli", *words, *self.sets(ledger)]
        # Progress goes to a file: a pipe that nobody reads would fill up and stop the driver.
        with (self.folder / f"{out}.progress").open("a") as progress:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=progress, text=True, env=self.environment)

    def finish(self, process: subprocess.Popen[str], out: str) -> dict[str, Any]:
        """Its summary. Raises RuntimeError with what it said when it fails."""
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"status {process.returncode}: {(self.folder / f'{out}.progress').read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        return answer

    def verify(self, out: str, *more: str) -> tuple[int, dict[str, Any]]:
        """`anonymousnet verify --json`: status and answer."""
        command = [sys.executable, "-m", "anonymousnet.cluster.cli", "verify", f"s3://{BUCKET}/{out}",
                   "--endpoint-url", self.server.endpoint, "--json", *more]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment)
        return done.returncode, json.loads(done.stdout)

    def spent(self, out: str) -> tuple[int, int]:
        """Entries of a job's ledger, and how many subjects they are of."""
        with sqlite3.connect(self.folder / f"{out}.ledger") as ledger:
            found = ledger.execute("SELECT count(*), count(DISTINCT subject) FROM spends").fetchone()
        return int(found[0]), int(found[1])

    def sets(self, *more: str) -> list[str]:
        """Settings as options."""
        return [word for setting in (*self.settings, *more) for word in ("--set", setting)]

    @property
    def environment(self) -> dict[str, str]:
        return {**{k: v for k, v in os.environ.items() if not k.startswith("AWS_")}, **KEYS, "OMP_NUM_THREADS": "1"}

    def requests(self, since: int) -> list[tuple[str, str, str]]:
        """(time of day, GET or PUT, key) of every request since a byte of the server's log."""
        with self.server.log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode("utf-8", "replace").splitlines()
        found = (re.match(r"I\d+ (\S+) .*?(Get|Put)ObjectHandler (.*)", line) for line in lines)
        return [(m[1], m[2].upper(), _key(m[3])) for m in found if m]


def _key(logged: str) -> str:
    """Of `soak in/a b.jpg` or `bucket=soak object=in/a b.jpg size=1`."""
    put = re.match(r"bucket=\S+ object=(.*) size=-?\d+$", logged)
    return put[1] if put else logged.split(" ", 1)[1]
