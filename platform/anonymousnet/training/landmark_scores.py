"""How far a landmark network's answers lie from the teacher's, on faces as the detector really finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.detect import Detector
from anonymousnet.align.landmarks import Landmarker
from anonymousnet.config import AlignConfig, Config
from anonymousnet.data.attributes import ALL, subgroups
from anonymousnet.data.celeba import CelebA, Partition
from anonymousnet.data.images import load_photo
from anonymousnet.device import Runner
from anonymousnet.errors import DataError, FaceError, StorageError
from anonymousnet.metrics.bootstrap import clustered, interval, resampled, totals
from anonymousnet.training.landmarks import FAILED
from anonymousnet.training.tasks import LABELS, UNSURE

PARTS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
"""First landmark of each part of the face, and one past its last (iBUG order)."""

Row = dict[str, float | str]
Scored = tuple[dict[str, float], list[Row], list[Row]]


def score_landmarks(name: str, data: Path, partition: Partition, wild: bool, config: Config) -> tuple[int, Scored]:
    """(faces, (means, rows per part of the face, rows per subgroup)) of aligned images, or (`wild`) of CelebA's
    photos as taken, whose subgroups are not known.

    Errors are mean distances over the distance of the eyes (Kowalski et al., section 4); a face beyond FAILED, or that
    the detector does not find, has failed. `sure_*`: without the faces on which the teacher's own answers lie apart.
    Raises DataError when there is no labelled face.
    """
    labels = _labels(data)
    names = labels["name"].tolist()
    part = None if wild else CelebA.open(data).part(partition)
    where = {} if part is None else {f"img_align_celeba/{n}": i for i, n in enumerate(part.names)}
    rows = [i for i, n in enumerate(names) if (n.startswith("img_celeba/") if wild else n in where)]
    rows = [i for i in rows if np.isfinite(labels["spread_N"][i])]
    if not rows:
        raise DataError(f"expected labelled faces in {data / LABELS}, found none; make them with the teacher")
    detector = Detector(config.align)
    landmarker = Landmarker(AlignConfig(landmarks=name), Runner(config.device, config.precision))
    errors = np.stack([_errors(data / names[i], labels["landmarks_N682"][i], detector, landmarker) for i in rows])
    sure = labels["spread_N"][rows] < UNSURE
    means = _means(errors) | {f"sure_{key}": value for key, value in _means(errors[sure]).items()}
    table: list[Row] = [{"part": name, "error": float(np.nanmean(errors[:, a:b]))} for name, (a, b) in PARTS.items()]
    groups = [] if part is None else _by_subgroup(errors, part.take(np.array([where[names[i]] for i in rows])))
    return len(rows), (means, table, groups)


def _by_subgroup(errors_N68: NDArray[np.float64], faces: CelebA) -> list[Row]:
    """Mean error (of faces that were found) and share of failures, each with its 95 % interval over people."""
    table: list[Row] = []
    each, failed = errors_N68.mean(1), _failed(errors_N68)
    everyone = {ALL: np.ones(len(each), np.bool_)}
    for name, members in (everyone | subgroups(faces.attributes)).items():
        found = members & np.isfinite(each)
        people = faces.identities[found]
        low, high = interval(resampled(totals(each[found], people), totals(np.ones(len(people)), people)))
        rate = clustered(failed[members], faces.identities[members])
        table.append({
            "subgroup": name, "faces": float(members.sum()), "error": float(each[found].mean()), "error_low": low,
            "error_high": high, "failed": rate.value, "failed_low": rate.low, "failed_high": rate.high,
        })  # fmt: skip
    return table


def _errors(path: Path, truth_682: NDArray[np.floating], detector: Detector, net: Landmarker) -> NDArray[np.float64]:
    """(68,) distances over the distance of the eyes; NaN where no face was found."""
    rgb = load_photo(path).rgb
    try:
        face = max(detector(rgb), key=lambda f: float(np.prod(f.box[2:] - f.box[:2])))  # as the teacher chose it
        found = net.align(rgb, [face], 128)[1]
    except (ValueError, FaceError):
        return np.full(68, np.nan)
    assert found is not None
    eyes = truth_682[36:42].mean(0) - truth_682[42:48].mean(0)
    return np.asarray(np.linalg.norm(found[0] - truth_682, axis=1) / np.linalg.norm(eyes))


def _means(errors_N68: NDArray[np.float64]) -> dict[str, float]:
    each = errors_N68.mean(1)
    return {"faces": float(len(each)), "error": float(np.nanmean(each)), "failed": float(_failed(errors_N68).mean())}


def _failed(errors_N68: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(~(errors_N68.mean(1) <= FAILED))  # NaN fails


def _labels(data: Path) -> dict[str, NDArray[Any]]:
    path = data / LABELS
    if not path.exists():
        raise StorageError(f"expected the teacher's {path}; `python -m anonymousnet.training.teacher {data} {path}`")
    with np.load(path) as file:
        return dict(file)
