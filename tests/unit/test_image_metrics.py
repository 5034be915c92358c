"""Image metrics against sets whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest

from anonymousnet.align.detect import Detector
from anonymousnet.align.region import HEAD
from anonymousnet.config import AlignConfig
from anonymousnet.metrics import image
from anonymousnet.privacy.methods import METHODS
from anonymousnet.training.data import FaceTable

RNG = np.random.default_rng(0)


def test_kid_of_one_distribution_is_about_nothing() -> None:
    a, b = RNG.normal(size=(300, 16)), RNG.normal(size=(300, 16))
    found = image.kid(a, b)
    assert found.low <= 0 <= found.high
    assert found.low <= found.value <= found.high


def test_kid_and_fid_grow_with_the_distance() -> None:
    a = RNG.normal(size=(300, 16))
    near, far = RNG.normal(size=(300, 16)) + 0.3, RNG.normal(size=(300, 16)) + 1.0
    assert 0 < image.kid(a, near).low < image.kid(a, near).value < image.kid(a, far).value
    assert image.fid(a, a) == pytest.approx(0, abs=1e-8)
    assert image.fid(a, near) < image.fid(a, far)


def test_fid_of_two_gaussians_is_frechets() -> None:
    a, b = RNG.normal(size=(200_000, 2)), 2 * RNG.normal(size=(200_000, 2)) + [1, 0]
    assert image.fid(a, b) == pytest.approx(1 + 2 * (1 - 2) ** 2, rel=0.02)  # |mean|^2 + sum (s1 - s2)^2


def test_likeness_falls_with_the_damage(synthetic: FaceTable) -> None:
    faces = synthetic.faces_N3HW[:8]
    same, noisy, boxed = (
        [values.mean() for values in image.likeness(faces, METHODS[name](faces))]
        for name in ("untouched", "noise", "black box")
    )
    assert same == [pytest.approx(1), float("inf")]
    assert 1 > noisy[0] > boxed[0]
    assert noisy[1] > boxed[1]


def test_a_face_is_detected_and_a_blank_is_not(synthetic: FaceTable) -> None:
    detector = Detector(AlignConfig())
    faces = np.concatenate([synthetic.faces_N3HW[:3], np.full((1, 3, 64, 64), 120, np.uint8)])
    points = image.detect(detector, faces)
    assert [p is not None for p in points] == [True, True, True, False]
    rate = image.detection_rate(points)
    assert (rate.value, rate.trials) == (0.75, 4)
    moved = [None if p is None else p + np.float32([3, 4]) for p in points]
    eyes = np.mean([np.linalg.norm(p[0] - p[1]) for p in points if p is not None])
    assert image.landmark_error(points, moved) == pytest.approx(5 / eyes, rel=0.1)
    assert np.isnan(image.landmark_error([None], [None]))


def test_agreement_counts_the_painted_attributes_alone() -> None:
    said = RNG.random((5, 40)) < 0.5
    assert image.agreement(said, said).all()
    assert not image.agreement(~said, said).any()
    assert image.agreement(said, said).shape == (5, 26)
    assert image.agreement(said, said, HEAD).shape == (5, 30)
