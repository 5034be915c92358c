"""Places of crops: on the grid, within reach, and no likelier for one face than for another but by e^epsilon."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anonymousnet.align import place
from anonymousnet.align.place import RATIO, STEP, TURN, draw_places, left_to_right, reaches
from anonymousnet.align.region import FACE, HEAD, Region
from anonymousnet.privacy.randomness import derive

PX = 128
POSES = st.tuples(st.floats(8, 3000), st.floats(-3, 3), st.floats(-200, 4000), st.floats(-200, 4000))


def pose(side: float, angle: float, x: float, y: float) -> np.ndarray:
    return place._matrix(side, angle, complex(x, y), PX, FACE)


def keys(n: int, name: str = "") -> list[bytes]:
    return [derive(bytes(32), name, str(i)) for i in range(n)]


Cell = tuple[int, int, int, int]


def cell(drawn: np.ndarray) -> Cell:
    """Which grid point a place is."""
    side, angle, centre = place._pose(drawn, PX, FACE)
    x, y = (round(at / (STEP * side)) for at in (centre.real, centre.imag))
    return round(math.log(side, RATIO)), round(angle / TURN), x, y


def chances(matrix: np.ndarray, epsilon: float) -> dict[Cell, float]:
    """Each place that this face may draw, and its chance: by enumeration of the four draws."""
    found: dict[Cell, float] = {}
    bias = math.tanh(epsilon / 8)
    for upper in itertools.product((False, True), repeat=4):
        drawn = place._placed(matrix, PX, FACE, np.where(upper, 0.0, 1.0 - 1e-12), epsilon)
        side, angle, centre = place._pose(matrix, PX, FACE)
        placed_side = place._pose(drawn, PX, FACE)[0]
        axes = (math.log(side * place.LARGER, RATIO), angle / TURN, centre.real / (STEP * placed_side),
                centre.imag / (STEP * placed_side))  # fmt: skip
        assume(all(1e-6 < x % 1 < 1 - 1e-6 for x in axes))
        up = [0.5 + bias * (x - math.floor(x) - 0.5) for x in axes]
        found[cell(drawn)] = math.prod(p if take else 1 - p for p, take in zip(up, upper, strict=True))
    return found


@settings(max_examples=60, deadline=None)
@given(POSES, st.sampled_from([FACE, HEAD]))
def test_a_place_reaches_its_face_and_lies_on_the_grid(at: tuple[float, ...], region: Region) -> None:
    matrix = place._matrix(*at[:2], complex(*at[2:]), PX, region)
    for drawn in draw_places(np.stack([matrix] * 4), PX, region, keys(4)):
        assert reaches(drawn, matrix, PX, region)
        side, angle, centre = place._pose(drawn, PX, region)
        for steps in (math.log(side, RATIO), angle / TURN, centre.real / (STEP * side), centre.imag / (STEP * side)):
            assert abs(steps - round(steps)) < 1e-4


@settings(max_examples=60, deadline=None)
@given(POSES, st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9),
       st.sampled_from([0.0, 0.1, 1.0, 8.0]))  # fmt: skip
def test_no_place_is_likelier_by_more_than_epsilon(
    at: tuple[float, ...], size: float, turn: float, right: float, down: float, epsilon: float
) -> None:
    side, angle, x, y = at
    other = (side * RATIO**size, angle + TURN * turn, x + STEP * side * right, y + STEP * side * down)
    ours, theirs = chances(pose(*at), epsilon), chances(pose(*other), epsilon)
    assert math.isclose(sum(ours.values()), 1)
    for where in ours.keys() & theirs.keys():
        assert abs(math.log(ours[where] / theirs[where])) <= epsilon + 1e-9
    for drawn in draw_places(np.stack([pose(*at)] * 8), PX, FACE, keys(8), epsilon):
        assert reaches(drawn, pose(*other), PX, FACE) == (cell(drawn) in theirs)


def test_the_bound_is_attained() -> None:
    """A face at a grid point against one a whole step away, along all four axes."""
    side = RATIO**40 / place.LARGER
    step = STEP * RATIO**40
    near, far = (pose(side * RATIO**at, TURN * at, step * at, step * at) for at in (0.00001, 0.99999))
    ours, theirs = chances(near, 2.0), chances(far, 2.0)
    assert max(math.log(ours[w] / theirs[w]) for w in ours.keys() & theirs.keys()) == pytest.approx(2.0, abs=1e-3)


def test_the_draws_are_those_chances() -> None:
    matrix = pose(301.0, 0.2, 777.3, 512.9)
    for epsilon in (0.0, 6.0):
        drawn = draw_places(np.stack([matrix] * 4000), PX, FACE, keys(4000, str(epsilon)), epsilon)
        counts, expected = Counter(cell(one) for one in drawn), chances(matrix, epsilon)
        assert counts.keys() == expected.keys()
        assert len(expected) == 16
        for where, chance in expected.items():
            assert counts[where] / 4000 == pytest.approx(chance, abs=0.03)


def test_the_order_tells_the_places_alone() -> None:
    matrices = np.stack([pose(100, 0, x, y) for x, y in ((900, 100), (100, 300), (500, 200), (100, 300))])
    ordered = left_to_right(matrices)
    assert len(ordered) == 3
    assert np.array_equal(ordered, left_to_right(matrices[::-1]))
    assert np.array_equal(ordered, matrices[[1, 2, 0]])


def test_no_face_has_no_place() -> None:
    assert draw_places(np.zeros((0, 2, 3)), PX, FACE, []).shape == (0, 2, 3)
