"""The regions that can be painted anew: fixed superellipses, over the face or over the whole head.

Their shape never depends on what they cover (a mask that followed a face's outline would release that outline).
Coordinates are those of the unit square of the aligned crop: u to the right, v downwards, both 0 to 1; pixel i of
`face_px` has its centre at (i + 0.5) / face_px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet.data.attributes import ATTRIBUTES, OUTSIDE, RegionName

POWER = 2.6
"""Exponent of the superellipses; 2 is an ellipse, larger is squarer."""
FEATHER = 0.11
"""Width of the soft edge, in units of `level`. It lies wholly OUTSIDE the region: inside, no source pixel shows."""

HIDDEN = 1.12
"""Level up to which the photo is hidden: more than is painted, for a crop does not lie where its face is (`place`)."""

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True, slots=True)
class Region:
    """One superellipse, and what stays visible around it."""

    name: RegionName
    centre: tuple[float, float]
    """The eyes' middle lies at about (0.503, 0.517)."""
    radii: tuple[float, float]
    """Half width and half height."""
    extent: str
    """From where to where, in words."""
    around: str
    """What of a person stays visible, in words."""

    @property
    def outside(self) -> frozenset[str]:
        """Attributes that show around it as well: whatever Stage II releases, the photo itself still shows them."""
        return OUTSIDE[self.name]

    @property
    def inside(self) -> tuple[str, ...]:
        """Attributes that the painted region carries."""
        return tuple(name for name in ATTRIBUTES if name not in self.outside)

    def level(self, u: Array, v: Array) -> Array:
        """Distance from the centre in units of the region's radius: <= 1 inside, growing outwards. Any shape."""
        x, y = abs(u - self.centre[0]) / self.radii[0], abs(v - self.centre[1]) / self.radii[1]
        return (x**POWER + y**POWER) ** (1 / POWER)

    def masks(self, face_px: int) -> tuple[Tensor, Tensor]:
        """(region, weight), both float32 (1, face_px, face_px): the hard region, and the weight of the painted face.

        A pixel belongs to the region if any part of it might: the region is grown by half a pixel's diagonal.
        """
        centres = (torch.arange(face_px, dtype=torch.float64) + 0.5) / face_px
        v, u = torch.meshgrid(centres, centres, indexing="ij")
        levels = self.level(u, v)
        half_diagonal = 0.5 * 2**0.5 / face_px / min(self.radii)
        region = (levels <= 1 + half_diagonal).float()
        return region[None], torch.maximum(feather(levels).float(), region)[None]

    def box(self, face_px: int) -> tuple[slice, slice]:
        """(rows, columns) of its bounding box."""
        region, _ = self.masks(face_px)
        spans = [torch.nonzero(region[0].amax(axis)).flatten() for axis in (1, 0)]
        rows, columns = (slice(int(span[0]), int(span[-1]) + 1) for span in spans)
        return rows, columns

    def pixelated(self, faces_B3HW: Tensor, cells: int) -> Tensor:
        """B3HW with the region replaced by the mean colours of a cells x cells grid over its bounding box; 0: zeros.

        What a generator of strength below 1 is shown. Everything outside the region is untouched.
        """
        side = faces_B3HW.shape[-1]
        region = self.masks(side)[0].to(faces_B3HW)
        shown = torch.zeros_like(faces_B3HW)
        if cells:
            rows, columns = self.box(side)
            seen = faces_B3HW[:, :, rows, columns]
            means = F.adaptive_avg_pool2d(seen, cells)
            shown[:, :, rows, columns] = F.interpolate(means, size=seen.shape[-2:])
        return torch.where(region > 0, shown, faces_B3HW)


FACE = Region(
    "face", (0.503, 0.622), (0.30, 0.335), "from the eyebrows to the chin",
    "hair, ears, clothes, body and background",
)  # fmt: skip
"""Ears stay out, eyebrows, jaw and chin are in."""
HEAD = Region(
    "head", (0.503, 0.504), (0.42, 0.453), "from the top of the hair to the chin, ears included",
    "long hair, neck, clothes, body and background",
)  # fmt: skip
"""It holds the face's region; below the chin an eighth of its weight is left where the crop ends. Long hair goes on."""
REGIONS: dict[RegionName, Region] = {region.name: region for region in (FACE, HEAD)}


def feather(levels: Array, width: float = FEATHER) -> Array:
    """Weight of the painted face, 0 to 1: exactly 1 where level <= 1, smoothly 0 from 1 + width on."""
    t = ((1 + width - levels) / width).clip(0, 1)
    weight: Array = t * t * (3 - 2 * t)
    return weight
