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

from anonymousnet.align.detect import Detector
from anonymousnet.config import AlignConfig
from anonymousnet.data.images import load_photo
from anonymousnet.errors import DataError, ImageError, WeightsError

SIDE, DOWN = 0.93, 0.057
"""What dlib expects is a square SIDE times our box's mean side, DOWN of it below our box's centre: its own detector's
answers on 252 photos, with standard deviations 0.075 and 0.043."""
JITTER = ((0, 0, 1), (-0.04, 0, 0.96), (0.04, 0, 1.04), (0, -0.04, 1.04), (0, 0.04, 0.96))
"""(shift x, shift y, scale) of the boxes each face is labelled from. The mean of the answers is the label, for each
is rounded to whole pixels; their spread tells where the teacher is guessing."""
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
    spread_N    float32, how far the teacher's answers lie apart (root mean square), as a share of the eyes' distance

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
    predictor, detector = _predictor(), Detector(AlignConfig())
    for name in tqdm([n for n in names if n not in done], initial=len(done), total=len(names), unit="photo"):
        rows.append({"name": name, **_row(folder / name, detector, predictor)})
        if len(rows) == SAVE_EVERY:
            table, rows = _save(out, table, rows), []
    return _save(out, table, rows)


def _row(path: Path, detector: Detector, predictor: Any) -> dict[str, Any]:
    """One photo's labels, of its largest face."""
    import dlib

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
    answers = []
    for x0, y0, x1, y1 in _squares(face.box):
        shape = predictor(rgb, dlib.rectangle(x0, y0, x1 - 1, y1 - 1))
        answers.append([(p.x + 0.5, p.y + 0.5) for p in shape.parts()])
    stack = np.array(answers)
    mean = stack.mean(0)
    eyes = np.hypot(*(mean[36:42].mean(0) - mean[42:48].mean(0)))
    spread = np.sqrt(((stack - mean) ** 2).sum(2).mean()) / max(1.0, eyes)
    return {**row, "box_N4": face.box, "points_N52": face.points_52, "landmarks_N682": mean, "spread_N": spread}


def _squares(box: NDArray[np.float32]) -> NDArray[np.int64]:
    """(5, 4): the squares dlib is given for one of our boxes."""
    width, height = box[2:] - box[:2]
    mean = (width + height) / 2
    middle = (box[:2] + box[2:]) / 2 + (0, DOWN * mean)
    out = []
    for x, y, scale in JITTER:
        centre, half = middle + mean * np.array([x, y]), mean * SIDE * scale / 2
        out.append(np.concatenate([centre - half, centre + half]))
    return np.rint(out).astype(np.int64)


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
    table = label(arguments.celeba, arguments.out)
    found = np.isfinite(table["spread_N"])
    spread = np.median(table["spread_N"][found]) if found.any() else np.nan
    print(f"{len(found)} photos, {int((~found).sum())} without a face, median spread {spread:.4f}")


if __name__ == "__main__":
    main()
