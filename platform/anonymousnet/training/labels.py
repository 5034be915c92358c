"""68 landmarks beside CelebA's images (`training.teacher` and `training.network_labels` write them), and which of
them are labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet.align.landmarks import STRAY, strayed
from anonymousnet.data.celeba import ALIGNED
from anonymousnet.errors import StorageError
from anonymousnet.nets.dan import five_from_68

LANDMARKS = "landmarks_68.npz"
"""The teacher's file, beside the images; its columns: `teacher.label`."""
NETWORK_LANDMARKS = "landmarks_68_network.npz"
"""The shipped network's file, beside the images; its columns: `network_labels.label`."""
GUESSED = 0.15
"""Where the teacher's own answers lie further apart, as a share of the eyes' distance, it guesses."""


def read_labels(path: Path) -> dict[str, NDArray[np.generic]]:
    """The teacher's table. Raises StorageError when it is not there."""
    if not path.exists():
        raise StorageError(
            f"expected the teacher's {path}; `python -m anonymousnet.training.teacher {path.parent} {path}`"
        )
    with np.load(path) as file:  # allow_pickle is off by default, and stays so
        return dict(file)


def labelled(path: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """(N, 68, 2) labels of aligned images by file name, in pixels of the image; NaN where they have none."""
    labels = read_labels(path)
    known = trusted(labels) if "spread_N" in labels else np.ones(len(labels["name"]), np.bool_)
    found = {Path(n).name: i for i, n in enumerate(labels["name"].tolist()) if ALIGNED in n and known[i]}
    points = np.concatenate([labels["landmarks_N682"], np.full((1, 68, 2), np.nan)]).astype(np.float32)
    return np.asarray(points[[found.get(name, -1) for name in names]])


def trusted(labels: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """(N,) Whether a photo's landmarks are labels: there is a face, the teacher did not guess, and its eyes, nose and
    mouth lie about where the detector has them.

    The teacher knows faces seen from the front, and puts many of CelebA's profiles into the middle of a cheek; the
    detector, which never saw the teacher, does not.
    """
    fine = five_from_68(torch.from_numpy(labels["landmarks_N682"])).numpy()
    with np.errstate(invalid="ignore"):  # NaN where there is no face, and false
        close = strayed(fine, labels["points_N52"]) < STRAY
        return np.asarray(close & (labels["spread_N"] < GUESSED))
