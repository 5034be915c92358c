"""The region that is painted anew: a fixed superellipse from the forehead to below the chin.

Its shape never depends on what it covers (a mask that followed the face's outline would release that outline).
Coordinates are those of the unit square of the aligned crop: u to the right, v downwards, both 0 to 1; pixel i of
`face_px` has its centre at (i + 0.5) / face_px.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CENTRE = (0.503, 0.622)
"""Middle of the region; the eyes' middle lies at about (0.503, 0.517)."""
RADII = (0.30, 0.335)
"""Half width and half height: ears stay out, eyebrows, jaw and chin are in."""
POWER = 2.6
"""Exponent of the superellipse; 2 is an ellipse, larger is squarer."""
FEATHER = 0.11
"""Width of the soft edge, in units of `level`. It lies wholly OUTSIDE the region: inside, no source pixel shows."""

Array = TypeVar("Array", np.ndarray, Tensor)


def level(u: Array, v: Array) -> Array:
    """Distance from the centre in units of the region's radius: <= 1 inside, growing outwards. Any shape."""
    x, y = abs(u - CENTRE[0]) / RADII[0], abs(v - CENTRE[1]) / RADII[1]
    return (x**POWER + y**POWER) ** (1 / POWER)


def feather(levels: Array) -> Array:
    """Weight of the painted face, 0 to 1: exactly 1 where level <= 1, smoothly 0 from 1 + FEATHER on."""
    t = ((1 + FEATHER - levels) / FEATHER).clip(0, 1)
    weight: Array = t * t * (3 - 2 * t)
    return weight


def masks(face_px: int) -> tuple[Tensor, Tensor]:
    """(region, weight), both float32 (1, face_px, face_px): the hard region, and the weight of the painted face.

    A pixel belongs to the region if any part of it might: the region is grown by half a pixel's diagonal.
    """
    centres = (torch.arange(face_px, dtype=torch.float64) + 0.5) / face_px
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    levels = level(u, v)
    half_diagonal = 0.5 * 2**0.5 / face_px / min(RADII)
    region = (levels <= 1 + half_diagonal).float()
    return region[None], torch.maximum(feather(levels).float(), region)[None]


def pixelated(faces_B3HW: Tensor, cells: int) -> Tensor:
    """B3HW with the region replaced by the mean colours of a cells x cells grid over its bounding box; 0 cells: zeros.

    What a generator of strength below 1 is shown. Everything outside the region is untouched.
    """
    region, _ = masks(faces_B3HW.shape[-1])
    region = region.to(faces_B3HW)
    shown = torch.zeros_like(faces_B3HW)
    if cells:
        rows, columns = (torch.nonzero(region[0].amax(axis)).flatten() for axis in (1, 0))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        means = F.adaptive_avg_pool2d(faces_B3HW[:, :, top:bottom, left:right], cells)
        shown[:, :, top:bottom, left:right] = F.interpolate(means, size=(bottom - top, right - left))
    return torch.where(region > 0, shown, faces_B3HW)
