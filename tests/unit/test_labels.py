"""Which of the teacher's landmarks are labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anonymousnet.errors import StorageError
from anonymousnet.nets.dan import five_from_68, mean_shape
from anonymousnet.training.labels import read_labels, trusted


def test_a_label_needs_a_face_a_teacher_who_knows_and_a_detector_who_agrees(tmp_path: Path) -> None:
    points = np.repeat(mean_shape().numpy()[None] * 100, 4, 0)
    five = np.repeat(five_from_68(mean_shape()).numpy()[None] * 100, 4, 0)
    eyes = np.linalg.norm(five[0, 0] - five[0, 1])
    points[0], five[1], spread = np.nan, five[1] + (0.3 * eyes, 0), np.array([np.nan, 0.01, 0.2, 0.01])
    np.savez(tmp_path / "labels.npz", landmarks_N682=points, points_N52=five, spread_N=spread)
    assert trusted(read_labels(tmp_path / "labels.npz")).tolist() == [False, False, False, True]


def test_without_the_teachers_file_its_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"expected the teacher's .*; `python -m anonymousnet.training.teacher"):
        read_labels(tmp_path / "landmarks_68.npz")
