"""CelebA in its official layout, whole or in part.

    FOLDER/img_align_celeba/000001.jpg ...      178x218 aligned faces
    FOLDER/list_attr_celeba.txt                 count, 40 names, then a row of 40 numbers (1 or -1) per image
    FOLDER/list_eval_partition.txt              0 train, 1 validation, 2 test
    FOLDER/identity_CelebA.txt                  image name and identity number
    FOLDER/img_celeba_256/000114.webp ...       256x256 faces of photos as taken, aligned alike; not CelebA's own

As Kaggle has it, images lie one folder deeper (img_align_celeba/img_align_celeba) and lists are CSV
(list_attr_celeba.csv, with a line of names first); identities are missing there.

Lists may speak of more images than are there: rows whose file is missing are left out. CRLF line ends are fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import AttributeTableError, StorageError

Partition = Literal["train", "validation", "test", "all"]
PARTITIONS: dict[str, int] = {"train": 0, "validation": 1, "test": 2}
ALIGNED = "img_align_celeba"
"""Folder of the aligned images."""
LARGE = "img_celeba_256"
"""Folder of the faces of photos as taken."""
CROP = 178
"""Side of the centre crop of a 178x218 aligned image, in pixels."""
HEIGHT = 218
"""Of an aligned image, in pixels."""


@dataclass(frozen=True, slots=True)
class CelebA:
    """Labels of the N images that are there. `faces` decodes them."""

    folder: Path
    names: tuple[str, ...]
    attributes: NDArray[np.bool_]
    """(N, 40)"""
    partitions: NDArray[np.int8]
    """(N,) 0 train, 1 validation, 2 test"""
    identities: NDArray[np.int64]
    """(N,) identity numbers; -1 where there is no identity list"""
    images: Path
    """Folder of the aligned images."""

    @classmethod
    def open(cls, folder: str | Path) -> CelebA:
        """Read the lists and keep the rows whose image exists.

        Raises StorageError if the folder or a list is missing, AttributeTableError if a list does not read.
        """
        folder = resolve_path(folder)
        images = folder / ALIGNED / ALIGNED if (folder / ALIGNED / ALIGNED).is_dir() else folder / ALIGNED
        if not images.is_dir():
            raise StorageError(f"expected {folder}/img_align_celeba with CelebA's aligned images; unpack CelebA there")
        there = {path.name for path in images.iterdir()}
        names, table = read_attributes(list_in(folder, "list_attr_celeba.txt"))
        rows = [i for i, name in enumerate(names) if name in there]
        partitions = read_pairs(list_in(folder, "list_eval_partition.txt"))
        identity_file = folder / "identity_CelebA.txt"
        identities = read_pairs(identity_file) if identity_file.exists() else {}
        kept = [names[i] for i in rows]
        return cls(
            folder,
            tuple(kept),
            table[rows],
            np.array([partitions.get(name, 0) for name in kept], np.int8),
            np.array([identities.get(name, -1) for name in kept], np.int64),
            images,
        )

    def part(self, partition: Partition) -> CelebA:
        """The images of one official partition."""
        if partition == "all":
            return self
        return self.take(np.flatnonzero(self.partitions == PARTITIONS[partition]))

    def take(self, rows: NDArray[np.int64]) -> CelebA:
        """The images of the given rows, in that order."""
        return CelebA(
            self.folder,
            tuple(self.names[i] for i in rows),
            self.attributes[rows],
            self.partitions[rows],
            self.identities[rows],
            self.images,
        )

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """The image file of a row."""
        return self.images / self.names[row]

    def faces(
        self, face_px: int, progress: Callable[[Iterable[int]], Iterable[int]] = lambda rows: rows, slack: int = 0
    ) -> NDArray[np.uint8]:
        """Decode all images: uint8 (N, 3, face_px + 2 slack, face_px), the centre crop and `slack` rows above and below
        it, resized."""
        out = np.empty((len(self), 3, face_px + 2 * slack, face_px), np.uint8)

        def decode(row: int) -> None:
            out[row] = centre_crop(Image.open(self.path(row)), face_px, slack)

        with ThreadPoolExecutor(2) as pool:
            for _ in zip(progress(range(len(self))), pool.map(decode, range(len(self))), strict=True):
                pass
        return out


def large_faces(folder: Path, face_px: int) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """(their aligned images' names, uint8 (N, 3, face_px, face_px)) of the faces of photos as taken.

    Raises StorageError when there are none.
    """
    paths = sorted((folder / LARGE).glob("*.webp"))
    if not paths:
        raise StorageError(f"expected faces of photos as taken, aligned, in {folder / LARGE}/*.webp; found none")
    faces = np.empty((len(paths), 3, face_px, face_px), np.uint8)
    for face, path in zip(faces, paths, strict=True):
        image = Image.open(path).convert("RGB").resize((face_px, face_px), Image.Resampling.BICUBIC)
        face[:] = np.asarray(image).transpose(2, 0, 1)
    return tuple(f"{path.stem}.jpg" for path in paths), faces


def slack_rows(face_px: int) -> int:
    """Rows that an aligned image has above its centre crop, and below it, at `face_px`."""
    return (HEIGHT - CROP) // 2 * face_px // CROP


def centre_crop(image: Image.Image, face_px: int, slack: int = 0) -> NDArray[np.uint8]:
    """The aligned image's centre crop at `face_px`, with `slack` rows above and below: uint8
    (3, face_px + 2 slack, face_px)."""
    left, top, beyond = (image.width - CROP) // 2, (image.height - CROP) // 2, slack * CROP / face_px
    small = image.convert("RGB").resize(
        (face_px, face_px + 2 * slack), Image.Resampling.BICUBIC,
        (left, top - beyond, left + CROP, top + CROP + beyond),
    )  # fmt: skip
    return np.asarray(small).transpose(2, 0, 1)


def list_in(folder: Path, name: str) -> Path:
    """A list of CelebA's, by its official name, or in Kaggle's form where that alone is there."""
    other = folder / kaggle_name(name)
    return other if other.exists() and not (folder / name).exists() else folder / name


def kaggle_name(name: str) -> str:
    """What Kaggle calls a list of CelebA's."""
    return str(PurePosixPath(name).with_suffix(".csv"))


def read_attributes(path: str | Path) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Read list_attr_celeba.txt, or Kaggle's CSV: (names, bool (N, 40)).

    Raises AttributeTableError naming the line when the header or a row is not as CelebA's.
    """
    lines = _read_lines(Path(path))
    if lines and "," in lines[0]:  # Kaggle's: one line fewer, and a name for the first column
        first, header, rows = 1, lines[0].split(",")[1:], [line.split(",") for line in lines[1:]]
    else:
        first, header, rows = 2, lines[1].split() if len(lines) > 1 else [], [line.split() for line in lines[2:]]
    if len(header) != len(ATTRIBUTES):
        raise AttributeTableError(
            f"expected {len(ATTRIBUTES)} attributes, got {len(header)}; check the header (line {first}) of {path}"
        )
    if tuple(header) != ATTRIBUTES:
        wrong = next(i for i, pair in enumerate(zip(header, ATTRIBUTES, strict=True)) if pair[0] != pair[1])
        raise AttributeTableError(
            f"expected attribute {wrong + 1} to be {ATTRIBUTES[wrong]}, got {header[wrong]}; check line {first} of "
            f"{path}"
        )
    for number, (_, *values) in enumerate(rows, first + 1):
        if len(values) != len(ATTRIBUTES) or not {"1", "-1"}.issuperset(values):
            raise AttributeTableError(
                f"expected {len(ATTRIBUTES)} values of 1 or -1, got {len(values)} values; check line {number} of {path}"
            )
    table = np.array([row[1:] for row in rows], dtype="U2").reshape(len(rows), len(ATTRIBUTES)) == "1"
    return tuple(row[0] for row in rows), table


def read_pairs(path: Path) -> dict[str, int]:
    """Read lines of `name number`, or `name,number` below a line of names, as CelebA's partition and identity lists
    are.

    Raises StorageError, AttributeTableError naming the line.
    """
    pairs: dict[str, int] = {}
    for number, line in enumerate(_read_lines(path), 1):
        between = "," if "," in line else " "
        name, _, value = line.partition(between)
        if number == 1 and between == "," and value == "partition":
            continue
        try:
            pairs[name] = int(value)
        except ValueError:
            raise AttributeTableError(
                f"expected 'name number', got '{line[:60]}'; check line {number} of {path}"
            ) from None
    return pairs


def _read_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}; CelebA's lists belong beside its images") from error
    except UnicodeDecodeError as error:
        raise AttributeTableError(f"{path} is not text: {error.reason}; download it again") from error
