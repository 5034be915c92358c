"""The photos of a folder or an S3 prefix and what is known of them beforehand: CelebA's layout, or just photos."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.celeba import ALIGNED, kaggle_name, read_attributes, read_pairs
from anonymousnet.errors import StorageError
from anonymousnet.pipelines.storage import Folder, Storage
from anonymousnet.training.labels import LANDMARKS, labelled

LISTS = ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt", LANDMARKS)
"""By their official names; `fetch_list` finds Kaggle's, too."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of N photos beforehand."""

    names: tuple[str, ...]
    listed: NDArray[np.bool_]
    """(N,) whether the source's list has a row for it; true throughout where there is no list."""
    attributes: NDArray[np.bool_] | None
    """(N, 40)"""
    identities: NDArray[np.int64]
    """(N,); -1 unknown"""
    landmarks: NDArray[np.float32] | None
    """(N, 68, 2) pixels of the photo; NaN unknown"""

    def take(self, rows: NDArray[np.intp]) -> Labels:
        """Those of some photos."""
        attributes = None if self.attributes is None else self.attributes[rows]
        landmarks = None if self.landmarks is None else self.landmarks[rows]
        names = tuple(self.names[i] for i in rows)
        return Labels(names, self.listed[rows], attributes, self.identities[rows], landmarks)


@dataclass(frozen=True, slots=True)
class Source:
    """The photos there are, sorted by name, and their labels."""

    place: Storage
    layout: str
    """celeba or photos"""
    below: str
    """Where the photos lie in the place: empty, or ends with a slash."""
    labels: Labels
    bytes_N: NDArray[np.int64]
    partitions: NDArray[np.int8]
    """(N,) index into SPLITS"""
    fingerprint: str
    """Hash of names, sizes and label files."""


def read_source(place: Storage) -> Source:
    """List photos and read labels, once. Raises StorageError, AttributeTableError; StorageError without a photo."""
    below, photos, layout = f"{ALIGNED}/", place.photos(ALIGNED), "celeba"
    if photos and all(name.startswith(below) for name, _ in photos):  # as Kaggle has it, one folder deeper
        photos, below = [(name.removeprefix(below), size) for name, size in photos], 2 * below
    if not photos:
        below, photos, layout = "", place.photos(), "photos"
    if not photos:
        raise StorageError(f"no photos in {place}; expected files such as .jpg, .png or .webp, or CelebA's layout")
    names = tuple(name for name, _ in photos)
    digest = hashlib.sha256(layout.encode())
    for name, size in photos:
        digest.update(f"{name}\t{size}\n".encode("utf-8", "surrogateescape"))
    labels, partitions = _unlabelled(names), np.zeros(len(names), np.int8)
    if layout == "celeba":
        with TemporaryDirectory() as temporary:
            lists = {name: fetch_list(place, name, Path(temporary)) for name in LISTS}
            for name, path in lists.items():
                digest.update(f"{name}\t{path and hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
            labels, partitions = _celeba_labels(names, lists)
    return Source(place, layout, below, labels, np.array([n for _, n in photos]), partitions, digest.hexdigest())


def is_list(name: str) -> bool:
    """Whether a file of a source in CelebA's layout is one of its lists."""
    return name in LISTS or name in map(kaggle_name, LISTS)


def fetch_list(place: Storage, name: str, temporary: Path) -> Path | None:
    """A label file where it can be opened, in the official form or Kaggle's; None if there is neither."""
    for called in (name, kaggle_name(name)):
        if isinstance(place, Folder) and (place.root / called).is_file():
            return place.root / called
        try:
            (temporary / called).write_bytes(place.read(called))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"cannot read {called} in {place}: {error.strerror}; check it") from error
        return temporary / called
    return None


def _unlabelled(names: tuple[str, ...]) -> Labels:
    return Labels(names, np.ones(len(names), np.bool_), None, np.full(len(names), -1, np.int64), None)


def _celeba_labels(names: tuple[str, ...], lists: dict[str, Path | None]) -> tuple[Labels, NDArray[np.int8]]:
    """Labels and partitions of the photos, in their order."""
    attributes, partition, identity, landmarks = (lists[name] for name in LISTS)
    if attributes is None or partition is None:
        raise StorageError(
            f"found {ALIGNED} without {LISTS[0]} and {LISTS[1]}; CelebA's lists belong beside its images"
        )
    order, table = read_attributes(attributes)
    row = {name: i for i, name in enumerate(order)}
    rows = np.array([row.get(name, -1) for name in names])
    table = np.concatenate([table, np.zeros((1, 40), np.bool_)])  # -1: the photos that no row speaks of
    split = read_pairs(partition)
    who = read_pairs(identity) if identity else {}
    labels = Labels(
        names, rows >= 0, table[rows], np.array([who.get(name, -1) for name in names]),
        labelled(landmarks, names) if landmarks else None,
    )  # fmt: skip
    return labels, np.array([split.get(name, 0) for name in names], np.int8)
