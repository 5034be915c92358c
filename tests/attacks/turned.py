"""Photos as taken, turned by any angle, through the whole chain: what stays open, what is quarantined, who is known.

    python -m tests.attacks.turned CELEBA [PHOTOS]

PHOTOS [12] of CelebA's photos as taken (`img_celeba`) at each of 24 angles, others at each. *Open*: two or more of the
largest face's eyes, nose and mouth corners were not hidden. How alike the released face is to its own source, by our
embedder, is set beside what it is where the photo is upright.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
from PIL import Image

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.images import load_photo
from anonymousnet.errors import AnonymousNetError
from tests.attacks.faces import Rgb, folder, interval

ANGLES = range(0, 360, 15)
KEY = bytes(range(32))


def turned(rgb: Rgb, points_52: np.ndarray, degrees: float) -> tuple[Rgb, np.ndarray]:
    """A photo turned clockwise on a larger black canvas, and where its points come to lie."""
    picture = Image.fromarray(rgb)
    out = picture.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    centred = points_52 - np.array(picture.size) / 2
    return np.asarray(out), centred @ np.array([[c, s], [-s, c]]) + np.array(out.size) / 2


def main() -> None:
    photos = sorted((folder() / "img_celeba").iterdir())
    each = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    anonymizer = Anonymizer.load(Config(), KEY)
    taken, start = [], 0
    for path in photos:
        image = load_photo(path)
        found = anonymizer.finder.detector(image.rgb)
        if found:
            largest = max(found, key=lambda face: float(face.box[2] - face.box[0]))
            taken.append((image.rgb, largest.points_52.astype(np.float64)))
    left, kept, alike = Counter[int](), Counter[int](), []
    for degrees in ANGLES:
        for i in range(each):
            rgb, points = taken[(start + i) % len(taken)]
            picture, where = turned(rgb, points, degrees)
            try:
                prepared = anonymizer.prepare(np.ascontiguousarray(picture))
                done = anonymizer.run(prepared.batch)
                anonymizer.encode(prepared, anonymizer.finish(prepared, done))
            except AnonymousNetError as error:
                kept[degrees] += 1
                print(f"{degrees:>4}  {type(error).__name__}", flush=True)
                continue
            h, w = prepared.hidden_HW.shape
            x, y = (np.clip(where[:, axis].astype(int), 0, side - 1) for axis, side in ((0, w), (1, h)))
            left[degrees] += int((~prepared.hidden_HW[y, x]).sum() >= 2)
            alike += [(degrees, value) for value in anonymizer.likeness(prepared, done) or []]
        start += each
    n = each * len(ANGLES)
    print(f"{n} photos at {len(ANGLES)} angles; open {interval(sum(left.values()), n)}: {dict(left + Counter())}")
    print(f"quarantined {interval(sum(kept.values()), n)}, most at one angle {max(kept.values(), default=0)} of {each}")
    for name, wanted in (("upright", True), ("turned", False)):
        values = np.array([value for degrees, value in alike if (degrees == 0) == wanted])
        print(
            f"{name:<8} cosine to the own source: mean {values.mean():.3f}, "
            f"0.99 quantile {np.quantile(values, 0.99):.3f}"
        )


if __name__ == "__main__":
    main()
