"""Real faces as a painter would have painted them at low resolution: what a refiner is trained on.

A refiner sharpens whatever is there, so it must see in training what a painter does wrong: softness, grain, colours a
little off, a ring along the region's edge, dots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet import draw
from anonymousnet.align.region import Region

GRAIN, TINT, BLOTCHES = 0.04, 0.03, 0.05
"""Largest deviations: of single pixels, of the whole face's colour, of colours at 8 x 8 places."""
SOFTNESS, RING = 0.6, 0.2
"""Largest share of a 3 x 3 mean; largest height of a ring."""
DOTS, DOT = 0.001, 0.4
"""Share of pixels that are dots; how far they are off."""


def degraded(faces_B3HW: Tensor, regions: tuple[Region, ...], kinds_B: Tensor, fold: int) -> Tensor:
    """(B, 3, H / fold, W / fold): shrunk, then spoilt at random. `regions`, `kinds_B`: whose edge the ring follows."""
    n, device = len(faces_B3HW), faces_B3HW.device
    small = F.interpolate(faces_B3HW, scale_factor=1 / fold, mode="bilinear", antialias=True)
    px = small.shape[-1]
    soft = F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    small = torch.lerp(small, soft, SOFTNESS * _share(n, device))
    tint = draw.normal(n, 3, 1, 1, device=device) * TINT
    blotches = F.interpolate(draw.normal(n, 3, 8, 8, device=device) * BLOTCHES, (px, px), mode="bilinear")
    grain = draw.normal(n, 3, px, px, device=device) * GRAIN * _share(n, device)
    dots = (draw.uniform(n, 1, px, px, device=device) < DOTS) * draw.normal(n, 3, 1, 1, device=device) * DOT
    return small + tint + blotches * _share(n, device) + grain + dots + _ring(regions, kinds_B, px)


def _share(n: int, device: torch.device) -> Tensor:
    return draw.uniform(n, 1, 1, 1, device=device)


def _ring(regions: tuple[Region, ...], kinds_B: Tensor, px: int) -> Tensor:
    """B1hw: a lighter or darker band along the region's edge, for every second face."""
    n, device = len(kinds_B), kinds_B.device
    line = (torch.arange(px, dtype=torch.float32) + 0.5) / px
    v, u = torch.meshgrid(line, line, indexing="ij")
    levels = torch.stack([region.level(u, v) for region in regions]).to(device)[kinds_B][:, None]
    at, wide = 0.85 + 0.25 * _share(n, device), 0.02 + 0.06 * _share(n, device)
    height = (2 * _share(n, device) - 1) * RING * (_share(n, device) < 0.5)
    return height * torch.exp(-(((levels - at) / wide) ** 2))
