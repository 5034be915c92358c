"""Label photos with dlib's 68 landmarks: the teacher of our own landmark network.

    python -m anonymousnet.training.teacher CELEBA OUT.npz

CELEBA holds `img_align_celeba` and, if you like, `img_celeba`. Stops and goes on where it was. dlib and its model
(Kazemi & Sullivan, CVPR 2014; trained on iBUG 300-W, research only) come with `pip install anonymousnet[judge]`
and serve here alone: nothing that AnonymousNet ships contains them.
"""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.align.detect import Detector
from anonymousnet.config import AlignConfig
from anonymousnet.data.images import load_photo
from anonymousnet.errors import AnonymousNetError, DataError, ImageError, WeightsError

SIDE, DOWN = 0.93, 0.057
"""What dlib's own detector usually finds is a square SIDE times our box's mean side, DOWN of it below our box's centre:
its answers on 252 photos, with standard deviations 0.075 and 0.043."""
SHOWN_AT, LENIENT, OVERLAP = 160, -0.5, 0.4
"""dlib's detector sees the face's surroundings with our box SHOWN_AT pixels wide, at a lower threshold than its own, 0:
there is a face. Its answer counts if it overlaps with the usual one (intersection over union)."""
JITTER = ((0, 0, 1), (-0.04, 0, 0.96), (0.04, 0, 1.04), (0, -0.04, 1.04), (0, 0.04, 0.96))
"""(shift x, shift y, scale) of the squares each face is labelled from. The median of the answers is the label, for each
is rounded to whole pixels and one may have gone astray; their spread tells where the teacher is guessing."""
SAVE_EVERY = 500
"""Photos between two saves."""

Table = dict[str, NDArray[Any]]


def label(folder: Path, out: Path) -> Table:
    """Label every photo below `folder` that `out` does not hold yet; returns, and keeps in `out`, one row per photo.

    name        str, relative to `folder`
    size_N2     int, height and width of the photo
    box_N4      float32, our detector's, x0 y0 x1 y1; NaN in this and the following where no face was found
    points_N52  float32, our detector's five points
    landmarks_N682   float32, iBUG order, continuous photo pixels (a pixel's centre is at + 0.5)
    spread_N    float32, how far the teacher's answers lie from it (root mean square), as a share of the eyes' distance

    Raises DataError when there is no photo, WeightsError when dlib or its model is missing.
    """
    from tqdm import tqdm

    names = [
        str(p.relative_to(folder))
        for d in ("img_celeba", "img_align_celeba")
        for p in sorted(folder.glob(f"{d}/*.jpg"))
    ]
    np.random.default_rng(0).shuffle(names)  # stopped early, what is there is still a fair sample
    if not names:
        raise DataError(
            f"expected photos in {folder}/img_align_celeba or {folder}/img_celeba, found none; check the path"
        )
    table = _read(out)
    done = set(table["name"].tolist()) if table else set()
    rows: list[dict[str, Any]] = []
    teacher, detector = Teacher(), Detector(AlignConfig())
    for name in tqdm([n for n in names if n not in done], initial=len(done), total=len(names), unit="photo"):
        rows.append({"name": name, **_row(folder / name, detector, teacher)})
        if len(rows) == SAVE_EVERY:
            table, rows = _save(out, table, rows), []
    return _save(out, table, rows)


def _row(path: Path, detector: Detector, teacher: Teacher) -> dict[str, Any]:
    """One photo's labels, of its largest face."""
    nothing = {"box_N4": (4,), "points_N52": (5, 2), "landmarks_N682": (68, 2), "spread_N": ()}
    row: dict[str, Any] = {key: np.full(shape, np.nan, np.float32) for key, shape in nothing.items()}
    try:
        rgb = load_photo(path).rgb
    except ImageError:
        return {**row, "size_N2": np.zeros(2, np.int32)}
    row["size_N2"] = np.array(rgb.shape[:2], np.int32)
    faces = detector(rgb)
    if not faces:
        return row
    face = max(faces, key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))
    answers = teacher(rgb, face.box)
    label = np.median(answers, 0)
    eyes = np.hypot(*(label[36:42].mean(0) - label[42:48].mean(0)))
    spread = np.sqrt(((answers - label) ** 2).sum(2).mean()) / max(1.0, eyes)
    return {**row, "box_N4": face.box, "points_N52": face.points_52, "landmarks_N682": label, "spread_N": spread}


class Teacher:
    """dlib's detector and predictor, as they are meant to be used: the one places the square that the other was
    trained on. From our boxes alone it guesses on 15 % of CelebA's faces instead of 9 %."""

    def __init__(self) -> None:
        """Raises WeightsError when dlib or its model is missing."""
        self._predictor = _predictor()
        import dlib

        self._dlib, self._detector = dlib, dlib.get_frontal_face_detector()

    def __call__(self, rgb: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float64]:
        """(5, 68, 2): the landmarks of the face in `box`, from the square that dlib finds and from its neighbours."""
        square, answers = self.square(rgb, box), []
        middle, side = (square[:2] + square[2:]) / 2, (square[2:] - square[:2]).mean()
        for x, y, scale in JITTER:
            centre, half = middle + side * np.array([x, y]), side * scale / 2
            x0, y0, x1, y1 = (int(v) for v in np.rint([*(centre - half), *(centre + half)]))
            shape = self._predictor(rgb, self._dlib.rectangle(x0, y0, x1 - 1, y1 - 1))
            answers.append([(p.x + 0.5, p.y + 0.5) for p in shape.parts()])
        return np.array(answers)

    def square(self, rgb: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float64]:
        """(4,) What dlib's detector finds where our box is, or the square that it usually finds there."""
        mean = float((box[2:] - box[:2]).mean())
        middle = (box[:2] + box[2:]).astype(np.float64) / 2 + (0, DOWN * mean)
        usual = np.concatenate([middle - SIDE * mean / 2, middle + SIDE * mean / 2])
        left, top = np.maximum(0, np.floor(middle - mean)).astype(int)
        right, bottom = np.ceil(middle + mean).astype(int)
        around = Image.fromarray(rgb[top:bottom, left:right])
        zoom = SHOWN_AT / mean
        shown = around.resize((max(1, round(around.width * zoom)), max(1, round(around.height * zoom))))
        squares = [
            np.array([r.left(), r.top(), r.right() + 1, r.bottom() + 1]) / zoom + [left, top, left, top]
            for r in self._detector.run(np.asarray(shown), 0, LENIENT)[0]
        ]
        best = max(squares, key=lambda square: _overlap(square, usual), default=usual)
        return best if _overlap(best, usual) > OVERLAP else usual


def _overlap(a_4: NDArray[np.float64], b_4: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes."""
    sides = np.clip(np.minimum(a_4[2:], b_4[2:]) - np.maximum(a_4[:2], b_4[:2]), 0, None)
    areas = float(np.prod(a_4[2:] - a_4[:2]) + np.prod(b_4[2:] - b_4[:2]))
    return float(np.prod(sides)) / (areas - float(np.prod(sides)))


def _predictor() -> Any:
    """dlib's shape predictor. The model's package is located, not imported: it needs an old setuptools to import."""
    spec = find_spec("face_recognition_models")
    folder = ((spec and spec.submodule_search_locations) or ["face_recognition_models"])[0]
    path = Path(folder, "models", "shape_predictor_68_face_landmarks.dat")
    if find_spec("dlib") is None or not path.is_file():
        raise WeightsError(f"expected dlib and {path}, not both are there; pip install 'anonymousnet[judge]'")
    import dlib

    return dlib.shape_predictor(str(path))


def _read(out: Path) -> Table:
    """The table saved so far; empty if there is none."""
    if not out.exists():
        return {}
    with np.load(out) as file:
        return dict(file)


def _save(out: Path, table: Table, rows: list[dict[str, Any]]) -> Table:
    """Append rows and write the table, whole or not at all."""
    new = {key: np.array([row[key] for row in rows]) for key in rows[0]} if rows else {}
    new = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in new.items()}
    joined = {key: np.concatenate([table[key], new[key]]) for key in new} if table and new else table or new
    temporary = out.with_name(out.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **joined)  # type: ignore[arg-type]
    os.replace(temporary, out)
    return joined


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Label photos with dlib's 68 landmarks.")
    parser.add_argument("celeba", type=Path, help="folder with img_align_celeba and img_celeba")
    parser.add_argument("out", type=Path, help="the .npz file to write or to go on with")
    arguments = parser.parse_args(argv)
    try:
        table = label(arguments.celeba, arguments.out)
    except AnonymousNetError as error:
        parser.exit(2, f"error: {error}\n")
    found = np.isfinite(table["spread_N"])
    spread = np.median(table["spread_N"][found]) if found.any() else np.nan
    print(f"{len(found)} photos, {int((~found).sum())} without a face, median spread {spread:.4f}")


if __name__ == "__main__":
    main()
