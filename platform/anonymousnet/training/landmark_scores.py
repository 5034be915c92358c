"""How far a landmark network's answers lie from the teacher's, on faces as the detector really finds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.detect import Detector
from anonymousnet.align.landmarks import Landmarker
from anonymousnet.config import AlignConfig, Config
from anonymousnet.data.attributes import ALL, subgroups
from anonymousnet.data.celeba import CelebA, Partition
from anonymousnet.data.images import load_photo
from anonymousnet.device import Runner
from anonymousnet.errors import DataError, FaceError
from anonymousnet.metrics.bootstrap import clustered, interval, resampled, totals
from anonymousnet.training.labels import LANDMARKS, read_labels, trusted
from anonymousnet.training.landmarks import FAILED

PARTS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
"""First landmark of each part of the face, and one past its last (iBUG order)."""

TRUSTED = "trusted"
"""What the row of the faces is called on which the teacher's answer is a label (`labels.trusted`)."""

Row = dict[str, float | str]
Scored = tuple[dict[str, float], list[Row], list[Row]]


def score_landmarks(name: str, data: Path, partition: Partition, wild: bool, config: Config) -> tuple[int, Scored]:
    """(faces, (means, rows per part of the face, rows per subgroup)) of aligned images, or (`wild`) of CelebA's
    photos as taken, whose subgroups are not known.

    Errors are mean distances over the distance of the eyes (Kowalski et al., section 4); a face beyond FAILED, or that
    the detector does not find, has failed. `trusted_*`: where the teacher's answer is a label (`labels.trusted`).
    Raises DataError when there is no labelled face.
    """
    labels = read_labels(data / LANDMARKS)
    names = labels["name"].tolist()
    part = None if wild else CelebA.open(data).part(partition)
    where = {} if part is None else {f"img_align_celeba/{n}": i for i, n in enumerate(part.names)}
    rows = [i for i, n in enumerate(names) if (n.startswith("img_celeba/") if wild else n in where)]
    rows = [i for i in rows if np.isfinite(labels["spread_N"][i])]
    if not rows:
        raise DataError(f"expected labelled faces in {data / LANDMARKS}, found none; make them with the teacher")
    detector = Detector(config.align)
    landmarker = Landmarker(AlignConfig(landmarks=name), Runner(config.device, config.precision))
    errors = np.stack([_errors(data / names[i], labels["landmarks_N682"][i], detector, landmarker) for i in rows])
    known = trusted(labels)[rows]
    means = _means(errors) | {f"trusted_{key}": value for key, value in _means(errors[known]).items()}
    table: list[Row] = [{"part": name, "error": float(np.nanmean(errors[:, a:b]))} for name, (a, b) in PARTS.items()]
    groups, people = {ALL: np.ones(len(rows), np.bool_), TRUSTED: known}, np.arange(len(rows))
    if part is not None:  # photos as taken are of one person each, as far as anyone knows
        faces = part.take(np.array([where[names[i]] for i in rows]))
        groups, people = groups | subgroups(faces.attributes), faces.identities
    return len(rows), (means, table, _by_subgroup(errors, people, groups))


def _by_subgroup(
    errors_N68: NDArray[np.float64], people_N: NDArray[np.int64], groups: Mapping[str, NDArray[np.bool_]]
) -> list[Row]:
    """Mean error (of faces that were found) and share of failures, each with its 95 % interval over people."""
    table: list[Row] = []
    each, failed = errors_N68.mean(1), _failed(errors_N68)
    for name, members in groups.items():
        found = members & np.isfinite(each)
        if not found.any():
            continue
        sums = totals(each[found], people_N[found]), totals(np.ones(int(found.sum())), people_N[found])
        low, high = interval(resampled(*sums))
        rate = clustered(failed[members], people_N[members])
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
