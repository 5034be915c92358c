"""Where a crop is placed: on a coarse grid, at one of the 16 grid points around the face, drawn at random.

The alignment of a face (size, angle, position) is computed from its hidden pixels, and a release shows it: the painted
region has an outline. To a thousandth of a pixel it told smiling faces from others (AUC 0.93) and named one of 40
people in a third of cases. So a crop is never placed where its face is, but at a grid point within reach of it.

**Grid.** Sides of crops are powers of `RATIO` times the photo's shorter side, angles multiples of `TURN`, and the
region's centre lies at multiples of `STEP` sides from the photo's centre, along its axes; each shifted by half a step.
Along each of the four axes a face lies between two grid points, and one of the two is drawn: 2^4 = 16 *places*. A place
*reaches* the faces that may draw it: those within one step of it along every axis. Half a step: faces that were
aligned before, a whole data set alike, lie in the middle between two grid points and not on both sides of one.

**Theorem (place).** Let two photos of one size have faces that the same place reaches. The place is drawn with chances
that differ by a factor of at most e^epsilon, epsilon = `align.epsilon`. *Proof.* Along one axis a grid point is drawn
with chance 1/2 + t (u - 1/2), u in [0, 1] being how near it is and t = tanh(epsilon / 8): at most (1 + t) / 2, at least
(1 - t) / 2, whose ratio is e^(epsilon / 4). The four draws are independent given the ones before (the steps of the
position are those of the drawn size), so the ratios multiply. QED. At epsilon 0, the default, both are drawn alike: the
place then says that the face is within reach, and nothing else. Spending epsilon here buys little: at epsilon 4 a crop
lies 0.42 of a step from its face on average along an axis, at epsilon 0 half a step.

**What a place still tells.** That the face is within its reach. A photo's place is drawn once for all releases of it
(the draw's key does not hold the release), and copies of a photo tell at most between which two grid points it lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.region import Region
from anonymousnet.privacy.randomness import uniforms

STEP = 0.06
"""Distance of grid points, in sides of the crop: how far a crop may lie from its face along x and along y."""
RATIO = 1.2
"""Ratio of neighbouring sides. With 1.1, smiling faces of aligned photos (they are smaller) were told with AUC 0.66."""
TURN = 2 * math.pi / 48
"""Angle between neighbours, in radians: 7.5 degrees."""

Matrix = NDArray[np.float64]
Axes = tuple[float, float, float, float]
"""Size, angle, x, y in steps; grid points are whole numbers."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The places of crops in photos of one size. Matrices (2, 3) take photo pixels to crop pixels."""

    shape_hw: tuple[int, int]
    """Of the photo, in pixels."""
    face_px: int
    region: Region

    def draw(self, matrices_F23: Matrix, keys_F: Sequence[bytes], epsilon: float = 0.0) -> Matrix:
        """Places (F, 2, 3) that reach the faces of these alignments, each drawn with its own key of 32 bytes.

        `epsilon`: what a place may spend on lying nearer to its face, 0 or more. Pure given the keys.
        """
        drawn = [
            self.drawn(matrix, uniforms(key, 4).tolist(), epsilon)
            for matrix, key in zip(matrices_F23, keys_F, strict=True)
        ]
        return np.array(drawn).reshape(-1, 2, 3)

    def drawn(self, matrix_23: Matrix, uniforms_4: Sequence[float], epsilon: float) -> Matrix:
        """The place that these four numbers in [0, 1) draw for a face."""
        size, turn, _, _ = self.axes(matrix_23)
        bias = math.tanh(epsilon / 8)
        cell = [_neighbour(at, u, bias) for at, u in zip((size, turn), uniforms_4[:2], strict=True)]
        # The steps of the position are those of the size that was drawn.
        _, _, right, down = self.axes(matrix_23, self._side(cell[0]))
        cell += [_neighbour(at, u, bias) for at, u in zip((right, down), uniforms_4[2:], strict=True)]
        return self.place((cell[0], cell[1], cell[2], cell[3]))

    def reaches(self, place_23: Matrix, matrix_23: Matrix) -> bool:
        """Whether a face of this alignment may draw this place."""
        side, _, _ = self._pose(place_23)
        place = [round(at) for at in self.axes(place_23, side)]
        turns = round(2 * math.pi / TURN)
        away = [at - own for at, own in zip(self.axes(matrix_23, side), place, strict=True)]
        away[1] = math.remainder(away[1], turns)
        return max(map(abs, away)) < 1 + 1e-9

    def axes(self, matrix_23: Matrix, side: float | None = None) -> Axes:
        """Where an alignment lies on the grid; its position in steps of a crop of `side` photo pixels [its own]."""
        own, angle, centre = self._pose(matrix_23)
        step, (h, w) = STEP * (own if side is None else side), self.shape_hw
        return (
            math.log(own / min(h, w), RATIO) + 0.5,
            angle / TURN + 0.5,
            (centre.real - w / 2) / step + 0.5,
            (centre.imag - h / 2) / step + 0.5,
        )

    def place(self, cell: Axes) -> Matrix:
        """The matrix (2, 3) of a grid point."""
        size, turn, right, down = cell
        side, (h, w) = self._side(size), self.shape_hw
        centre = complex(w / 2, h / 2) + STEP * side * complex(right - 0.5, down - 0.5)
        a = self.face_px / side * complex(math.cos((turn - 0.5) * TURN), math.sin((turn - 0.5) * TURN))
        shift = complex(*self.region.centre) * self.face_px - a * centre
        return np.array([[a.real, -a.imag, shift.real], [a.imag, a.real, shift.imag]])

    def _side(self, size: float) -> float:
        return float(min(self.shape_hw) * RATIO ** (size - 0.5))

    def _pose(self, matrix: Matrix) -> tuple[float, float, complex]:
        """Side of the crop in photo pixels, angle in radians, the region's centre in the photo."""
        a, shift = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
        middle = complex(*self.region.centre) * self.face_px
        return self.face_px / abs(a), math.atan2(a.imag, a.real), (middle - shift) / a


def left_to_right(places_F23: Matrix) -> Matrix:
    """The places, each once, from left to right in the photo: an order that tells nothing but the places."""
    each = np.unique(places_F23.reshape(-1, 6), axis=0).reshape(-1, 2, 3)
    middles = np.linalg.solve(each[:, :, :2], -each[:, :, 2:])[..., 0]
    return np.asarray(each[np.lexsort((middles[:, 1], middles[:, 0]))])


def _neighbour(x: float, uniform: float, bias: float) -> int:
    """One of the two whole numbers around x, the nearer more often by `bias` (0: alike, 1: in proportion)."""
    below = math.floor(x)
    return below + (uniform < 0.5 + bias * (x - below - 0.5))
