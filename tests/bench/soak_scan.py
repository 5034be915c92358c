"""Is anything of the source's faces, names or metadata in a released bucket?

Each released photo is made once more from its source with noise in place of all that the mask hides, from the
alignment, the attributes that the manifest says were released, and the key. The file must have the same bytes: then it
cannot hold a pixel of the source from inside the mask. (Faces are painted alone here and sixteen at a time there: one
in a thousand is rounded otherwise, so what differs by less than `ROUNDED` everywhere is counted apart.)
"""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import Photo, encode_photo
from tests.bench.soak_scene import WORDS, Scene

PROCESSES = 2
ROUNDED = 12
"""Levels of 255. The source's own face differs by far more."""
_anonymizer: Anonymizer | None = None


@dataclass
class Scan:
    """What was looked at, and what was found."""

    objects: int = 0
    photos: int = 0
    bytes: int = 0
    named: list[str] = field(default_factory=list)
    """Objects that hold a word or a name of the source."""
    metadata: list[str] = field(default_factory=list)
    """Photos that carry anything but pixels."""
    other: list[str] = field(default_factory=list)
    """Photos that blinded sources do not give again."""
    rounded: list[str] = field(default_factory=list)
    """Photos that they give again but for rounding."""
    same: float = 0.0
    """Share of pixels inside masks that equal the source's in all channels."""
    chance: float = 0.0
    """The same against the photo before it: what two faces share by accident."""


def scan(scene: Scene, source: str, out: str) -> Scan:
    """Look at every object of a release."""
    found, shares = Scan(), Counter[str]()
    names = {line["source"] for _, line in scene.records(out)}
    odd = [name for name in names if name.startswith("odd/")]
    words = [*(word.encode() for word in WORDS), *(name.rsplit("/", 1)[-1].encode() for name in odd)]
    pattern = re.compile(b"|".join(map(re.escape, words)))
    of = {line["object"]: line["source"] for _, line in scene.records(out) if line["object"]}
    rows = _rows(scene, out)
    tasks = []
    for name in scene.keys(out):
        data = scene.get(out, name)
        found.objects, found.bytes = found.objects + 1, found.bytes + len(data)
        if pattern.search(data) or pattern.search(name.encode()):
            found.named.append(name)
        if name in rows:
            tasks.append((name, data, scene.get(source, of[name]), rows[name]["faces"]))
    with get_context("spawn").Pool(PROCESSES, _load, (scene.settings,)) as pool:
        for name, clean, far, counts in pool.imap_unordered(_photo, tasks, 8):
            found.photos += 1
            shares.update(counts)
            if not clean:
                found.metadata.append(name)
            if far:
                (found.rounded if far < ROUNDED else found.other).append(name)
    found.same = shares["same"] / max(shares["hidden"], 1)
    found.chance = shares["chance"] / max(shares["compared"], 1)
    return found


def _rows(scene: Scene, out: str) -> dict[str, dict[str, Any]]:
    """The manifest's rows by object."""
    parts = [name for name in scene.keys(out) if re.fullmatch(r"manifest/part-\d+\.parquet", name)]
    found = [row for name in parts for row in pq.read_table(io.BytesIO(scene.get(out, name))).to_pylist()]
    return {row["object"]: row for row in found}


def _load(settings: tuple[str, ...]) -> None:
    global _anonymizer
    torch.set_num_threads(1)
    _anonymizer = Anonymizer.load(Config.load(None, settings))


def _photo(task: tuple[str, bytes, bytes, list[dict[str, Any]]]) -> tuple[str, bool, int, Counter[str]]:
    """(name, nothing but pixels, levels between it and what a blinded source gives, counts of pixels)."""
    name, data, source, faces = task
    with Image.open(io.BytesIO(data)) as opened:
        extra = set(opened.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop", "background"}
        clean = not extra and not dict(opened.getexif())
        released = np.asarray(opened.convert("RGB"))
    assert _anonymizer is not None
    prepared = _anonymizer.prepare(source)
    image, covered = prepared.image, prepared.hidden_HW
    noise = np.random.default_rng(len(data)).integers(0, 256, image.rgb.shape, np.uint8)
    blind = Photo(np.where(covered[..., None], noise, image.rgb), image.alpha, image.format)
    altered = _anonymizer.hide(blind, prepared.matrices_F23)
    said = torch.tensor([[face["attributes"][a] for a in ATTRIBUTES] for face in faces])
    facts = {"epsilon": 0.0, "t": 0.0, "unprotected": ()}
    batch = altered.batch.with_(
        source_B3HW=None, released_B40=said, probabilities_B40=torch.zeros(said.shape), read_B40=said, public=facts
    )
    for stage in _anonymizer.stages[2:]:
        batch = stage(batch)
    settings = _anonymizer.config.release
    again = encode_photo(_anonymizer.finish(altered, batch).image, settings.format, settings.quality)[0]
    # By accident: the same place of the photo, its own pixels moved by a third of its height.
    shifted = np.roll(image.rgb, image.rgb.shape[0] // 3, 0)
    counts = Counter(hidden=int(covered.sum()), same=int((released == image.rgb).all(2)[covered].sum()),
                     compared=int(covered.sum()), chance=int((shifted == image.rgb).all(2)[covered].sum()))  # fmt: skip
    with Image.open(io.BytesIO(again)) as opened:
        far = int(np.abs(np.asarray(opened.convert("RGB")).astype(int) - released).max())
    return name, clean, max(far, again != data), counts
