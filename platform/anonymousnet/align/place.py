"""Where a crop is placed: on a coarse grid, at one of the 16 grid points around the face, drawn at random.

The alignment of a face (position, size, angle) is computed from its hidden pixels, and a release shows it: the painted
region has an outline. To a thousandth of a pixel it told smiling faces from others (AUC 0.93) and named one of 40 people
in a third of cases. So the crop is never placed where the face is, but at a grid point within reach of it.

**Grid.** Sides of the crop are powers of `RATIO` in photo pixels, angles are multiples of `TURN`, and the region's
centre lies at multiples of `STEP` sides along the photo's axes. Along each of the four axes a face lies between two
grid points, and one of the two is drawn: 2^4 = 16 *places*. A place *reaches* the faces that may draw it: those within
one step of it along every axis.

**Theorem (place).** Let two photos have faces that the same place reaches. The place is drawn with chances that differ
by a factor of at most e^epsilon, epsilon = `align.epsilon`. *Proof.* Along one axis the place is drawn with chance
1/2 + t (u - 1/2), u in [0, 1] being how near it is and t = tanh(epsilon / 8): at most (1 + t) / 2, at least (1 - t) / 2,
whose ratio is e^(epsilon / 4). The four draws are independent given the ones before (the step of the position is
that of the drawn size), so the ratios multiply. QED. At epsilon 0, the default, both are drawn alike: the place then
says that the face is within reach, and nothing else. Spending epsilon here buys little: at epsilon 4 a crop lies 0.42
of a step from its face on average along an axis, at epsilon 0 half a step.

**What a place still tells.** That the face is within its reach. A photo's place is drawn once for all releases of it
(the draw's key does not hold the release), and copies of a photo can tell at most between which two grid points it lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.region import Region
from anonymousnet.privacy.randomness import uniforms

STEP = 0.06
"""Distance of grid points, in sides of the crop: how far a crop may lie from its face along x and along y."""
RATIO = 1.1
"""Ratio of neighbouring sides."""
TURN = 2 * math.pi / 50
"""Angle between neighbours, in radians: 7.2 degrees."""
LARGER = 1.05
"""Crops are placed around this multiple of the face's own size: a region that is small for its face would show its rim."""
DRAWS = 4
"""Uniform numbers that one face takes: size, angle, x, y."""

Matrix = NDArray[np.float64]


def draw_places(
    matrices_F23: Matrix, face_px: int, region: Region, keys_F: Sequence[bytes], epsilon: float = 0.0
) -> Matrix:
    """Alignments (F, 2, 3), photo pixels to crop pixels, moved to places that reach them; each drawn with its own key.

    `epsilon`: what the place may spend on lying nearer to the face, 0 or more; pure given the keys.
    """
    placed = [
        _placed(matrix, face_px, region, uniforms(key, DRAWS), epsilon)
        for matrix, key in zip(matrices_F23, keys_F, strict=True)
    ]
    return np.array(placed).reshape(-1, 2, 3)


def left_to_right(places_F23: Matrix) -> Matrix:
    """The places, each once, from left to right in the photo: an order that tells nothing but the places."""
    each = np.unique(places_F23.reshape(-1, 6), axis=0).reshape(-1, 2, 3)
    middles = np.linalg.solve(each[:, :, :2], -each[:, :, 2:])[..., 0]
    return np.asarray(each[np.lexsort((middles[:, 1], middles[:, 0]))])


def reaches(place_23: Matrix, matrix_23: Matrix, face_px: int, region: Region) -> bool:
    """Whether a face of this alignment may draw this place."""
    side, angle, centre = _pose(place_23, face_px, region)
    other_side, other_angle, other_centre = _pose(matrix_23, face_px, region)
    turn = math.remainder(angle - other_angle, 2 * math.pi)
    size = math.log(side / (other_side * LARGER))
    moved = (other_centre - centre) / (STEP * side)
    return max(abs(size) / math.log(RATIO), abs(turn) / TURN, abs(moved.real), abs(moved.imag)) < 1 + 1e-9


def _placed(matrix: Matrix, face_px: int, region: Region, uniforms_4: NDArray[np.float64], epsilon: float) -> Matrix:
    side, angle, centre = _pose(matrix, face_px, region)
    size, turn, right, down = uniforms_4.tolist()
    bias = math.tanh(epsilon / 8)
    placed_side = RATIO ** _neighbour(math.log(side * LARGER, RATIO), size, bias)
    placed_angle = TURN * _neighbour(angle / TURN, turn, bias)
    step = STEP * placed_side
    placed_centre = complex(
        step * _neighbour(centre.real / step, right, bias), step * _neighbour(centre.imag / step, down, bias)
    )
    return _matrix(placed_side, placed_angle, placed_centre, face_px, region)


def _neighbour(x: float, uniform: float, bias: float) -> int:
    """One of the two whole numbers around x, the nearer more often by `bias` (0: alike, 1: in proportion)."""
    below = math.floor(x)
    return below + (uniform < 0.5 + bias * (x - below - 0.5))


def _pose(matrix: Matrix, face_px: int, region: Region) -> tuple[float, float, complex]:
    """Side of the crop in photo pixels, angle in radians, the region's centre in the photo."""
    a, shift = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
    middle = complex(*region.centre) * face_px
    return face_px / abs(a), math.atan2(a.imag, a.real), (middle - shift) / a


def _matrix(side: float, angle: float, centre: complex, face_px: int, region: Region) -> Matrix:
    a = face_px / side * complex(math.cos(angle), math.sin(angle))
    shift = complex(*region.centre) * face_px - a * centre
    return np.array([[a.real, -a.imag, shift.real], [a.imag, a.real, shift.imag]])
