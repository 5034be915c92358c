"""Small faces in large photos, and a second, turned face beside an upright one: which of them a release leaves.

    python -m tests.attacks.crowd CELEBA large          41 faces in 12, 24 and 60 megapixels and a panorama
    python -m tests.attacks.crowd CELEBA pairs [PHOTOS]  a second face at full size and at a quarter, turned

Faces are aligned photos of CelebA's test partition. *Untouched*: two or more of a face's eyes, nose and mouth corners
are not hidden in a photo that is released.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from anonymousnet.align.coverage import open_points
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.errors import AnonymousNetError
from tests.attacks.faces import People, Rgb, folder, interval
from tests.attacks.turned import KEY

FACE_PX = 85
"""Width of the faces in aligned photos, whose eyes are 38 px apart."""
POINTS_52 = np.array([(69.5, 111.5), (107.5, 111.5), (88.5, 135.0), (73.0, 152.0), (104.0, 152.0)])
SIZES = (16, 20, 24, 32, 48, 64, 80, 100)
LARGE = {"12 MP": (3000, 4000), "24 MP": (4000, 6000), "60 MP": (6700, 8950), "panorama": (3000, 20_000)}


def placed(canvas: Rgb, face: Rgb, px: float, quarter: int, corner: tuple[int, int]) -> np.ndarray:
    """Put a photo, its face `px` wide and turned by quarters against the clock, on the canvas; where its points lie."""
    h, w = (max(1, round(side * px / FACE_PX)) for side in face.shape[:2])
    small = np.rot90(np.asarray(Image.fromarray(face).resize((w, h), Image.Resampling.LANCZOS)), quarter)
    x, y = POINTS_52.T * px / FACE_PX
    for _ in range(quarter):
        x, y, w, h = y, w - x, h, w
    y0, x0 = corner
    canvas[y0 : y0 + small.shape[0], x0 : x0 + small.shape[1]] = small
    return np.stack([x + x0, y + y0], 1)


def crowd(people: People, shape: tuple[int, int]) -> tuple[Rgb, list[tuple[int, np.ndarray]]]:
    """A photo of 41 faces on a smooth ground: 8 sizes in 4 orientations, and 9 near ones; sizes and points."""
    rng = np.random.default_rng(shape[0])
    ground = rng.integers(60, 200, (*(side // 200 for side in shape), 3)).astype(np.uint8)
    canvas = np.array(Image.fromarray(ground).resize(shape[::-1], Image.Resampling.BICUBIC))
    wanted = [(px, quarter) for px in SIZES for quarter in range(4)] + [(300, 0)] * 9
    rows, columns = 4, 11
    cells = rng.permutation(rows * columns)[: len(wanted)]
    out = []
    for i, (px, quarter) in enumerate(wanted):
        row, column = divmod(int(cells[i]), columns)
        side = round(min(px, min(shape[0] / rows, shape[1] / columns) / 3))
        corner = row * shape[0] // rows + 7, column * shape[1] // columns + 7
        out.append((side, placed(canvas, people.photo(i), side, quarter, corner)))
    return canvas, out


def large(people: People, anonymizer: Anonymizer) -> None:
    for name, shape in LARGE.items():
        canvas, faces = crowd(people, shape)
        started = time.process_time()
        try:
            hidden = anonymizer.prepare(canvas).hidden_HW
            left = Counter(px for px, points in faces if open_points(points, hidden) > 1)
            said = f"{sum(left.values())} of {len(faces)} untouched {dict(sorted(left.items()))}"
        except AnonymousNetError as error:
            said = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:<9} {said}; {time.process_time() - started:.0f} CPU s, peak {peak:.2f} GiB", flush=True)


def pairs(people: People, anonymizer: Anonymizer, photos: int) -> None:
    left, kept = Counter[str](), Counter[str]()
    for name, canvas, points in _pairs(people, photos):
        try:
            prepared = anonymizer.prepare(canvas)
            done = anonymizer.finish(prepared, anonymizer.run(prepared.batch))
            anonymizer.encode(prepared, done)
        except AnonymousNetError:
            kept[name] += 1
            continue
        left[name] += any(open_points(each, prepared.hidden_HW) > 1 for each in points)
    for name in sorted(set(left) | set(kept)):
        print(f"{name:<22} untouched {interval(left[name], photos)}, quarantined {interval(kept[name], photos)}")


def _pairs(people: People, photos: int) -> Iterator[tuple[str, Rgb, list[np.ndarray]]]:
    for i in range(photos):
        for share in (1.0, 0.25):
            for quarter in (1, 2, 3):
                canvas = np.full((560, 900, 3), 120, np.uint8)
                px = 2 * FACE_PX
                first = placed(canvas, people.photo(2 * i), px, 0, (20, 20))
                second = placed(canvas, people.photo(2 * i + 1), px * share, quarter, (60, 440))
                yield f"turned {90 * quarter:>3}, size {share}", canvas, [first, second]


def main() -> None:
    people, anonymizer = People.open(folder()), Anonymizer.load(Config(), KEY)
    if sys.argv[2:3] == ["large"]:
        large(people, anonymizer)
    elif sys.argv[2:3] == ["pairs"]:
        pairs(people, anonymizer, int(sys.argv[3]) if len(sys.argv) > 3 else 120)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
