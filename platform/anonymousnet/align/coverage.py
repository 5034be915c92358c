"""Whether a face that was seen is painted as large as it was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.detect import Detection
from anonymousnet.align.region import Region
from anonymousnet.align.warp import Mask, Matrix

PATCH = 1.15
"""Side of a plain patch as a share of the detector's box."""

INNER = 0.8
"""Side of the inner box as a share of the detector's: brows to chin, without ears and hair line."""
LEAST = 0.66
"""Share of the inner box that must be painted. On real upright faces placed by landmarks it was never below: see
docs/experiments/detector.md."""
_GRID = 24


def inner_points(face: Detection) -> NDArray[np.float64]:
    """(_GRID^2, 2) points of the photo, evenly over the inner box, which is turned as the face is."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    steps = ((np.arange(_GRID) + 0.5) / _GRID - 0.5) * INNER
    x, y = np.meshgrid(steps * (x1 - x0), steps * (y1 - y0))
    turned = (x + 1j * y).ravel() * np.exp(1j * np.radians(face.turn))
    return np.stack([turned.real + (x0 + x1) / 2, turned.imag + (y0 + y1) / 2], 1)


def coverage(face: Detection, matrix_23: Matrix, region: Region, face_px: int) -> float:
    """Share (0 to 1) of the face's inner box that `region`, at `matrix_23` (photo to crop pixels), paints."""
    u, v = ((inner_points(face) @ matrix_23[:, :2].T + matrix_23[:, 2]) / face_px).T
    return float((region.level(u, v) <= 1).mean())


def painted_share(face: Detection, hidden_HW: Mask) -> float:
    """Share (0 to 1) of the face's inner box, as far as it lies in the photo, that is hidden; 1 if it lies outside."""
    x, y = np.floor(inner_points(face)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < hidden_HW.shape[1]) & (y < hidden_HW.shape[0])
    return float(hidden_HW[y[inside], x[inside]].mean()) if inside.any() else 1.0


def open_points(points_52: NDArray[np.floating], hidden_HW: Mask) -> int:
    """How many of eyes, nose and mouth corners (5, 2) lie in the photo and are not hidden."""
    x, y = np.floor(points_52).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < hidden_HW.shape[1]) & (y < hidden_HW.shape[0])
    return int((~hidden_HW[y[inside], x[inside]]).sum())


def patch(face: Detection, shape_hw: tuple[int, int]) -> Mask:
    """(H, W) The pixels of a plain patch over a face: the detector's box and a rim (PATCH), turned as the face is."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    middle, half = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0]) / 2 * PATCH
    reach = float(np.hypot(*half)) + 1
    out = np.zeros(shape_hw, np.bool_)
    left, top = (int(v) for v in np.clip(np.floor(middle - reach), 0, shape_hw[::-1]))
    right, bottom = (int(v) for v in np.clip(np.ceil(middle + reach), 0, shape_hw[::-1]))
    x, y = np.meshgrid(np.arange(left, right) + 0.5 - middle[0], np.arange(top, bottom) + 0.5 - middle[1])
    own = (x + 1j * y) * np.exp(-1j * np.radians(face.turn))
    out[top:bottom, left:right] = (abs(own.real) <= half[0] + 0.5) & (abs(own.imag) <= half[1] + 0.5)
    return out
