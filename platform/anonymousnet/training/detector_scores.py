"""How many faces are left open by size, turn, light, blur and covered part, and what is painted that is no face.

Every photo's main face is the largest that is found in it as taken. One thing at a time is changed, the face is found
and aligned anew, and is *open* where two or more of its eyes, nose and mouth corners lie outside what would be painted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from anonymousnet.align.finder import Finder
from anonymousnet.align.region import REGIONS
from anonymousnet.align.warp import Rgb, owners
from anonymousnet.config import Config
from anonymousnet.data.images import Photo, find_photos, load_photo
from anonymousnet.device import Runner
from anonymousnet.errors import DataError
from anonymousnet.metrics.bootstrap import clustered

PHOTOS = 40
"""Photos that are scored, drawn by `seed`."""
FACE_PX = 128
CANVAS = 640
"""Side of the plain picture that a small face is put into, in pixels."""
PLAIN = 0.6
"""Score of an upright look from which on what is painted beside the main face is taken for another face."""
SIZES = (16, 20, 24, 32, 48, 64, 100, 200)
TURNS = tuple(range(0, 360, 15))
LIGHT = (0.1, 0.25, 0.5, 1.0, 2.0)
BLUR = (0.0, 0.02, 0.05, 0.1, 0.15)
COVERED = (0.0, 0.25, 0.5, 0.75)

Row = dict[str, float | str]
Points = NDArray[np.float64]
Progress = Callable[[Iterable[int]], Iterable[int]]
Case = tuple[str, float, Rgb, Points]
"""What is changed, to what, the picture, and the main face's five points (5, 2) in it."""


def score_detector(data: Path, config: Config, progress: Progress = iter) -> tuple[int, dict[str, float], list[Row]]:
    """(photos, means, rows) on CelebA's photos as taken in `data`, or on its aligned ones where there are no others.

    `faces_open` of a row is a share with its 95 % interval. `false_alarms`: places per photo that are painted in photos
    as taken beside the main face and that a plain upright look does not take for a face; real faces that it misses
    count as well, so it is an upper bound. Raises DataError where no photo shows a face.
    """
    folder = next((data / name for name in ("img_celeba", "img_align_celeba") if (data / name).is_dir()), data)
    photos = find_photos(folder)
    chosen = np.random.default_rng(config.seed).permutation(len(photos))[:PHOTOS]
    finder = Finder(config.align, Runner(config.device, config.precision))
    outcomes: dict[tuple[str, float], list[bool]] = {}
    alarms: list[int] = []
    for i in progress(sorted(chosen.tolist())):
        rgb = load_photo(photos[i], config.align.max_pixels).rgb
        faces = finder(Photo(rgb, None, "PNG"), REGIONS[config.synthesize.region], FACE_PX)
        if not faces:
            continue
        main = max(faces, key=lambda face: float(np.prod(face.detection.box[2:] - face.detection.box[:2])))
        others = [face.detection for face in faces if face is not main]
        alarms.append(sum(other.score < PLAIN or other.turn != 0 for other in others))
        side = float((main.detection.box[2:] - main.detection.box[:2]).max())
        for kind, value, picture, points in _cases(rgb, main.detection.points_52.astype(np.float64), side):
            outcomes.setdefault((kind, value), []).append(_open(finder, picture, points, config))
    if not alarms:
        raise DataError(f"expected photos with faces in {folder}, found none; pass CelebA's folder with --data")
    rows: list[Row] = []
    for (kind, value), left in outcomes.items():
        rate = clustered(np.array(left), np.arange(len(left)))
        rows.append({"changed": f"{kind} {value:g}", "faces": float(len(left)), "faces_open": rate.value,
                     "faces_open_low": rate.low, "faces_open_high": rate.high})  # fmt: skip
    upright = [row for row in rows if row["changed"] == "turn 0"]
    means = {"faces_open": float(upright[0]["faces_open"]), "false_alarms": float(np.mean(alarms))}
    return len(alarms), means, rows


def _open(finder: Finder, rgb: Rgb, points_52: Points, config: Config) -> bool:
    """Whether two or more of five points lie outside what would be painted."""
    region = REGIONS[config.synthesize.region]
    faces = finder(Photo(rgb, None, "PNG"), region, FACE_PX)
    matrices = np.array([face.matrix_23 for face in faces]).reshape(-1, 2, 3)
    painted = owners(rgb.shape[:2], matrices, FACE_PX, region) > 0
    x, y = np.clip(np.floor(points_52).astype(int), 0, (rgb.shape[1] - 1, rgb.shape[0] - 1)).T
    return int((~painted[y, x]).sum()) >= 2


def _cases(rgb: Rgb, points_52: Points, side: float) -> Iterator[Case]:
    """One thing at a time changed. `side`: of the main face, in pixels."""
    for size in SIZES:
        if size <= side:
            yield "size", size, *_shrunk(rgb, points_52, size / side)
    for turn in TURNS:
        yield "turn", turn, *turned(rgb, points_52, turn)
    for light in LIGHT:
        yield "light", light, np.clip(rgb * light, 0, 255).astype(np.uint8), points_52
    for blur in BLUR:
        yield "blur", blur, np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(blur * side))), points_52
    for covered in COVERED:
        yield "covered", covered, _covered(rgb, points_52, side, covered), points_52


def _shrunk(rgb: Rgb, points_52: Points, scale: float) -> tuple[Rgb, Points]:
    """The photo shrunk, in the middle of a plain picture of its mean colour, or of what of it is in the middle."""
    small = Image.fromarray(rgb).resize(
        (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))), Image.Resampling.LANCZOS
    )
    points = points_52 * (small.width / rgb.shape[1], small.height / rgb.shape[0])
    corner = np.round(CANVAS / 2 - points.mean(0)).astype(int)
    canvas = Image.new("RGB", (CANVAS, CANVAS), tuple(int(v) for v in rgb.mean((0, 1))))
    canvas.paste(small, (int(corner[0]), int(corner[1])))
    return np.asarray(canvas), points + corner


def turned(rgb: Rgb, points_52: Points, degrees: float) -> tuple[Rgb, Points]:
    """A photo turned clockwise on a canvas that holds all of it, and where points of it come to lie."""
    image = Image.fromarray(rgb).rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middle = np.array([rgb.shape[1], rgb.shape[0]]) / 2
    points = (points_52 - middle) @ np.array([[c, s], [-s, c]]) + np.array([image.width, image.height]) / 2
    return np.asarray(image), points


def _covered(rgb: Rgb, points_52: Points, side: float, share: float) -> Rgb:
    """A grey bar over the lower `share` of the face."""
    x, y = points_52.mean(0)
    out = rgb.copy()
    top, bottom = round(y + side * (0.5 - share)), round(y + side * 0.5)
    out[max(top, 0) : max(bottom, 0), max(0, round(x - side / 2)) : max(0, round(x + side / 2))] = 128
    return out
