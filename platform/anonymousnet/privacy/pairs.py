"""Released photos beside the originals they were made from: what every attacker and every quality figure starts from.

PRIVATE: it holds originals. Faces are aligned by our detector on the ORIGINAL, and the same alignment is laid over
the released photo: an advantage that a real attacker may not have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyarrow import ArrowException

from anonymousnet.align.detect import Detector
from anonymousnet.align.region import FACE, REGIONS, Region
from anonymousnet.align.warp import crop_faces, similarity
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES, subgroups
from anonymousnet.data.celeba import list_in, read_attributes
from anonymousnet.data.celeba import read_pairs as read_numbers
from anonymousnet.data.images import load_photo
from anonymousnet.errors import DataError, FaceError, ImageError, StorageError
from anonymousnet.nets.classifier import Classifier
from anonymousnet.privacy.jobs import Progress, Run, here
from anonymousnet.privacy.recognisers import resized, unit_range

Faces = NDArray[np.uint8]

FACE_PX = 128
"""Side of the crops that attackers work on."""
CHUNK = 50
"""Photos per reading job."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """N faces before and after. PRIVATE."""

    sources_N3HW: Faces
    released_N3HW: Faces
    identities_N: NDArray[np.int64]
    truth_N40: NDArray[np.bool_]
    """True attributes."""
    said_N40: NDArray[np.bool_] | None
    """Attributes as Stage II released them; None for methods that release none."""
    region: Region = FACE
    """What was painted anew."""

    def __len__(self) -> int:
        return len(self.sources_N3HW)

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        """Some rows, in the given order."""
        return Pairs(
            self.sources_N3HW[rows], self.released_N3HW[rows], self.identities_N[rows], self.truth_N40[rows],
            None if self.said_N40 is None else self.said_N40[rows], self.region,
        )  # fmt: skip

    def under(self, released_N3HW: Faces, said_N40: NDArray[np.bool_] | None) -> Pairs:
        """The same originals under another method."""
        return replace(self, released_N3HW=released_N3HW, said_N40=said_N40)

    def subgroups(self) -> dict[str, NDArray[np.bool_]]:
        """Name -> members, by true attributes."""
        return subgroups(self.truth_N40)


@dataclass(frozen=True, slots=True)
class Opened:
    """A release read beside its originals."""

    pairs: Pairs
    facts: dict[str, Any]
    """Public evidence common to the release: epsilon, t, covers, strength, region, perturbation."""
    truth_from: str
    """Where the true attributes come from, in words."""
    left_out: dict[str, int]
    """Why photos are not among the pairs, and how many."""


def open_release(
    release: Path, originals: Path, identities_file: Path, config: Config, reader: Callable[[Faces], Any],
    run: Run = here, progress: Progress = lambda items, _: items,
) -> Opened:  # fmt: skip
    """Match released photos with originals of the same relative path, find and align the largest face of each.

    `reader`: uint8 faces -> attributes (bool N40), the source of the true ones where CelebA's
    list_attr_celeba.txt does not stand beside the identity file. Raises StorageError for a missing file or folder,
    DataError where the identity file names nobody in the release, or no original fits.
    """
    photos = _rows(release)
    if not originals.is_dir():
        raise StorageError(f"expected a folder of originals at {originals}, found none; check --originals")
    identities = read_numbers(identities_file)
    named = {name: number for name in photos if (number := _number(name, identities)) is not None}
    if not named:
        raise DataError(
            f"{identities_file} names none of the {len(photos)} photos in {release}; expected lines of 'name number' "
            f"such as '{Path(next(iter(photos), '000001.jpg')).name} 17'"
        )
    left_out = {"not in the identity file": len(photos) - len(named)}
    asked = [(release / name, _original(originals, name), len(photos[name])) for name in named]
    parts = run([(_read, (asked[i : i + CHUNK], config)) for i in range(0, len(asked), CHUNK)], progress)
    found = []
    for name, both in zip(named, itertools.chain.from_iterable(parts), strict=True):
        if isinstance(both, str):
            left_out[both] = left_out.get(both, 0) + 1
        else:
            found.append((name, *both))
    if not found:
        raise DataError(
            f"none of the {len(named)} named photos of {release} has a usable original under {originals}: "
            + ", ".join(f"{reason} {count}" for reason, count in left_out.items() if count)
        )
    return _opened(found, photos, named, identities_file, reader, left_out)


def count_photos(release: Path) -> int:
    """How many photos a release holds. Raises StorageError, DataError."""
    return len(_rows(release))


def true_attributes(net: Classifier, runner: Any) -> Callable[[Faces], NDArray[np.bool_]]:
    """What Stage I takes for true, as a function of uint8 faces."""
    probabilities = true_probabilities(net, runner)
    return lambda faces_N3HW: np.asarray(net.says(torch.from_numpy(probabilities(faces_N3HW))).numpy())


def true_probabilities(net: Classifier, runner: Any) -> Callable[[Faces], NDArray[np.float32]]:
    """Stage I's probabilities, as a function of uint8 faces."""
    placed = runner.place(net)

    def read(faces_N3HW: Faces) -> NDArray[np.float32]:
        faces = unit_range(resized(faces_N3HW, net.config.px))
        return np.asarray(runner(placed.probabilities, faces).float().numpy())

    return read


def _opened(
    found: list[tuple[str, Faces, Faces, int]], photos: Mapping[str, list[dict[str, Any]]],
    named: Mapping[str, int], identities_file: Path, reader: Callable[[Faces], Any], left_out: dict[str, int],
) -> Opened:  # fmt: skip
    names = [name for name, *_ in found]
    sources, released = (np.stack([item[i] for item in found]) for i in (1, 2))
    evidence = [photos[name][face] for name, _, _, face in found]
    truth, where = _truth(identities_file, names, sources, reader)
    said = np.array([[bool(row[name]) for name in ATTRIBUTES] for row in evidence])
    epsilons = [float(row["epsilon"]) for row in evidence]
    first = evidence[0]
    ids = np.array([named[name] for name in names], np.int64)
    pairs = Pairs(sources, released, ids, truth, said, REGIONS[first["region"]])
    facts = {key: first[key] for key in ("covers", "strength", "region", "perturbation", "unprotected", "precision")}
    facts |= {"epsilon": float(np.mean(epsilons)), "t": max(float(row["t"]) for row in evidence)}
    return Opened(pairs, facts, where, {reason: n for reason, n in left_out.items() if n})


def _rows(release: Path) -> dict[str, list[dict[str, Any]]]:
    """Photo -> its rows of release.parquet, by face."""
    file = release / "release.parquet"
    try:
        rows = pq.read_table(file).to_pylist()
        rows.sort(key=lambda row: (row["photo"], row["face"]))
    except FileNotFoundError as error:
        raise StorageError(f"expected {file}, found none; name a folder that `anonymousnet anonymize` wrote") from error
    except (ArrowException, OSError, KeyError) as error:
        raise DataError(f"{file} does not read ({error}); release again") from error
    photos: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        row.setdefault("region", FACE.name)  # a release from before there was a choice
        photos.setdefault(row["photo"], []).append(row)
    if not photos:
        raise DataError(f"{file} holds no face; there is nothing to evaluate")
    return photos


def _number(name: str, identities: Mapping[str, int]) -> int | None:
    """Identity by relative path, else by file name; a suffix that the release added is looked through."""
    for candidate in (name, Path(name).name, str(Path(name).with_suffix("")), Path(name).stem):
        if candidate in identities:
            return identities[candidate]
    return None


def _original(originals: Path, name: str) -> Path | None:
    """The original of a released photo; `a.heic.png` was made from `a.heic`."""
    for candidate in (originals / name, originals / Path(name).with_suffix("")):
        if candidate.is_file():
            return candidate
    return None


def _read(asked: Sequence[tuple[Path, Path | None, int]], config: Config) -> list[tuple[Faces, Faces, int] | str]:
    """Job: `_faces` of some photos."""
    detector = Detector(config.align)
    return [_faces(released, original, rows, detector, config) for released, original, rows in asked]


def _faces(
    released: Path, original: Path | None, rows: int, detector: Detector, config: Config
) -> tuple[Faces, Faces, int] | str:
    """(source, released, face number) of the largest face, or why not."""
    if original is None:
        return "no original of this name"
    try:
        before, after = (load_photo(path, config.align.max_pixels).rgb for path in (original, released))
        if before.shape != after.shape:
            return "original and release differ in size"
        found = detector(before)
        if len(found) != rows:
            return "another number of faces found than were released"
        # Left to right, as the release numbers them.
        found.sort(key=lambda d: (float(d.points_52[:, 0].mean()), float(d.points_52[:, 1].mean())))
        areas = [(d.box[2] - d.box[0]) * (d.box[3] - d.box[1]) for d in found]
        face = int(np.argmax(areas))
        matrix = similarity(found[face].points_52[None], FACE_PX)
    except (ImageError, FaceError, StorageError):
        return "photo does not read"
    crops = (crop_faces(rgb, matrix, FACE_PX)[0] for rgb in (before, after))
    source, result = (((crop + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy() for crop in crops)
    return source, result, face


def _truth(
    identities_file: Path, names: list[str], sources: Faces, reader: Callable[[Faces], Any]
) -> tuple[NDArray[np.bool_], str]:
    """True attributes: CelebA's labels where they are at hand for every photo, else Stage I's reading."""
    labels = list_in(identities_file.parent, "list_attr_celeba.txt")
    if labels.is_file():
        known, table = read_attributes(labels)
        rows = {name: i for i, name in enumerate(known)}
        if all(Path(name).name in rows for name in names):
            return table[[rows[Path(name).name] for name in names]], "CelebA's labels"
    return np.asarray(reader(sources)), "our classifier's reading of the originals"
