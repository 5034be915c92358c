"""Places of crops: on the grid, within reach, and no likelier for one face than for another but by e^epsilon."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anonymousnet.align.place import RATIO, Grid, left_to_right
from anonymousnet.align.region import FACE, HEAD
from anonymousnet.privacy.randomness import derive

PX = 128
GRID = Grid((1200, 1600), PX, FACE)
STEPS = st.tuples(st.floats(-20, 3), st.floats(-20, 20), st.floats(-200, 200), st.floats(-200, 200))
"""Where faces lie, in steps of the grid."""


def keys(n: int, name: str = "") -> list[bytes]:
    return [derive(bytes(32), name, str(i)) for i in range(n)]


def between(steps: tuple[float, ...]) -> np.ndarray:
    """A face that lies between grid points along all axes, whatever size is drawn."""
    matrix = GRID.place(steps)
    for size in (math.floor(steps[0]), math.floor(steps[0]) + 1):
        axes = GRID.axes(matrix, GRID._side(size))
        assume(all(1e-6 < at % 1 < 1 - 1e-6 for at in axes))
    return matrix


def chances(matrix: np.ndarray, epsilon: float) -> dict[tuple[int, ...], float]:
    """Each place that this face may draw, and its chance: by enumeration of the four draws."""
    found: dict[tuple[int, ...], float] = {}
    bias = math.tanh(epsilon / 8)
    for upper in itertools.product((False, True), repeat=4):
        place = GRID.drawn(matrix, [0.0 if take else 1 - 1e-12 for take in upper], epsilon)
        axes = GRID.axes(matrix, GRID._pose(place)[0])
        up = [0.5 + bias * (at - math.floor(at) - 0.5) for at in axes]
        found[cell(place)] = math.prod(p if take else 1 - p for p, take in zip(up, upper, strict=True))
    return found


def cell(place: np.ndarray) -> tuple[int, ...]:
    """Which grid point a place is."""
    size, turn, right, down = (round(at) for at in GRID.axes(place))
    return size, turn % 48, right, down


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([FACE, HEAD]))
def test_a_place_reaches_its_face_and_lies_on_the_grid(steps: tuple[float, ...], region: object) -> None:
    grid = replace(GRID, region=region)
    matrix = grid.place(steps)
    for drawn in grid.draw(np.stack([matrix] * 4), keys(4)):
        assert grid.reaches(drawn, matrix)
        assert all(abs(at - round(at)) < 1e-4 for at in grid.axes(drawn))


@settings(max_examples=60, deadline=None)
@given(STEPS, st.tuples(*[st.floats(-0.9, 0.9)] * 4), st.sampled_from([0.0, 0.1, 1.0, 8.0]))
def test_no_place_is_likelier_by_more_than_epsilon(
    steps: tuple[float, ...], apart: tuple[float, ...], epsilon: float
) -> None:
    one, other = between(steps), between(tuple(a + b for a, b in zip(steps, apart, strict=True)))
    ours, theirs = chances(one, epsilon), chances(other, epsilon)
    assert math.isclose(sum(ours.values()), 1)
    for place in ours.keys() & theirs.keys():
        assert abs(math.log(ours[place] / theirs[place])) <= epsilon + 1e-9
    for drawn in GRID.draw(np.stack([one] * 8), keys(8), epsilon):
        assert GRID.reaches(drawn, other) == (cell(drawn) in theirs)


def test_the_bound_is_attained() -> None:
    """A face at a grid point against one a whole step away, along all four axes."""
    near = GRID.place((0.00001, 0.00001, 0.00001, 0.00001))
    # Along the axes of the grid point that both are compared at, whose steps are those of its size.
    far = GRID.place((0.99999, 0.99999, 0.5 + 0.49999 / RATIO**0.99999, 0.5 + 0.49999 / RATIO**0.99999))
    ours, theirs = chances(near, 2.0), chances(far, 2.0)
    assert max(math.log(ours[w] / theirs[w]) for w in ours.keys() & theirs.keys()) == pytest.approx(2.0, abs=1e-3)


def test_the_draws_are_those_chances() -> None:
    matrix = GRID.place((-3.3, 1.2, 4.71, -7.6))
    for epsilon in (0.0, 6.0):
        drawn = GRID.draw(np.stack([matrix] * 4000), keys(4000, str(epsilon)), epsilon)
        counts, expected = Counter(cell(one) for one in drawn), chances(matrix, epsilon)
        assert counts.keys() == expected.keys()
        assert len(expected) == 16
        for where, chance in expected.items():
            assert counts[where] / 4000 == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("side", [178, 250, 1024])
def test_faces_that_were_aligned_before_lie_between_grid_points(side: int) -> None:
    """Whatever the resolution: a data set's faces must not lie on both sides of a grid point."""
    grid = Grid((side, side), PX, FACE)
    whole = np.array([[PX / side, 0, 0], [0, PX / side, 0]])
    size, turn, right, _ = (at % 1 for at in grid.axes(whole))
    assert (size, turn) == (pytest.approx(0.5), pytest.approx(0.5))
    assert 0.2 < right < 0.8


def test_the_order_tells_the_places_alone() -> None:
    matrices = np.stack([GRID.place((-8, 0, x, y)) for x, y in ((90, 10), (10, 30), (50, 20), (10, 30))])
    ordered = left_to_right(matrices)
    assert len(ordered) == 3
    assert np.array_equal(ordered, left_to_right(matrices[::-1]))
    assert np.array_equal(ordered, matrices[[1, 2, 0]])


def test_no_face_has_no_place() -> None:
    assert GRID.draw(np.zeros((0, 2, 3)), []).shape == (0, 2, 3)
