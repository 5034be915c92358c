"""Photos for the attacks: faces of many people that come with one and the same surroundings."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.detect import Detector
from anonymousnet.align.landmarks import Landmarker
from anonymousnet.config import Config
from anonymousnet.data.celeba import CelebA
from anonymousnet.data.images import load_photo
from anonymousnet.device import Runner
from anonymousnet.errors import AnonymousNetError

PX = 128
Rgb = NDArray[np.uint8]
Matrix = NDArray[np.float64]


class Aligner:
    """One photo's largest face, aligned as a release aligns it before its place is drawn."""

    def __init__(self) -> None:
        config = Config()
        self.detector = Detector(config.align)
        self.landmarker = Landmarker(config.align, Runner("cpu", "auto", 1))

    def __call__(self, rgb: Rgb) -> Matrix | None:
        """(2, 3), or None where there is no face to align."""
        faces = self.detector(rgb)
        if not faces:
            return None
        largest = max(faces, key=lambda face: float(face.box[2] - face.box[0]))
        try:
            return np.asarray(self.landmarker.align(rgb, [largest], PX)[0][0])
        except AnonymousNetError:
            return None


@dataclass(frozen=True)
class People:
    """Aligned photos of different people, in random order."""

    celeba: CelebA
    rows: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path, seed: int = 0) -> People:
        """One photo of each person of the test partition (178 x 218 pixels)."""
        part = CelebA.open(folder).part("test")
        order = np.random.default_rng(seed).permutation(len(part))
        _, first = np.unique(part.identities[order], return_index=True)
        return cls(part, order[np.sort(first)])

    def photo(self, i: int) -> Rgb:
        """(218, 178, 3) uint8, of person i (counted round)."""
        return load_photo(self.celeba.path(int(self.rows[i % len(self.rows)]))).rgb


def interval(successes: float, trials: int) -> str:
    """A share with its 95 % interval (Wilson, 1927), as text."""
    p, z = successes / trials, 1.96
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * ((p * (1 - p) + z * z / (4 * trials)) / trials) ** 0.5 / (1 + z * z / trials)
    return f"{p:.3f} [{max(0.0, middle - half):.3f}, {min(1.0, middle + half):.3f}]"


def folder() -> Path:
    """CelebA's folder, from the command line."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    return Path(sys.argv[1])
