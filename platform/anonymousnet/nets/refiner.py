"""Stage III's refiner: a painted face at low resolution, and its context at full resolution -> a face at full one.

It sees nothing of the hidden face: post-processing of what the painter painted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

FOLD = 4
"""How many times larger the refined face is. The network works at the painted face's resolution."""


class RefinerConfig(BaseModel):
    """Shape of the refiner."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 256
    width: int = 48
    blocks: int = 5
    finest: int = 12
    """Channels at px."""


class Residual(nn.Module):
    """x + two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.leaky_relu(self.conv1(x), 0.2))
        return out


class Refiner(nn.Module):
    """painted B3hw in [-1, 1], h = w = px / 4; context B3HW in [-1, 1], region B1HW in {0, 1}, H = W = px
    -> B3HW in [-1, 1]: the painted face enlarged, and a residual."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d((3 + 3 + 1) * FOLD**2, config.width, 3, 1, 1)
        self.body = nn.Sequential(*(Residual(config.width) for _ in range(config.blocks)))
        self.head = nn.Conv2d(config.width, config.finest * FOLD**2, 3, 1, 1)
        # A convolution over unfolded pixels: what folding leaves of a raster, it can smooth.
        self.out = nn.Conv2d(config.finest, 3, 3, 1, 1)
        nn.init.zeros_(self.out.weight)  # it starts as the bicubic enlargement
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, painted: Tensor, context: Tensor, region: Tensor) -> Tensor:
        larger = enlarged(painted)
        x = self.stem(F.pixel_unshuffle(torch.cat([larger, context * (1 - region), region], 1), FOLD))
        x = F.leaky_relu(F.pixel_shuffle(self.head(self.body(x)), FOLD), 0.2)
        refined: Tensor = larger + self.out(x).float()
        return refined.clamp(-1, 1)


def enlarged(painted_B3hw: Tensor) -> Tensor:
    """B3HW: the painted face at full size, bicubic."""
    larger: Tensor = F.interpolate(painted_B3hw.float(), scale_factor=float(FOLD), mode="bicubic")
    return larger.clamp(-1, 1)


class PatchDiscriminator(nn.Module):
    """B3HW in [-1, 1] -> B1hw logits, h = H / 8: real or refined, patch by patch (Isola et al., CVPR 2017)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide = (width, 2 * width, 3 * width)
        self.layers = nn.Sequential(
            nn.Conv2d(3, wide[0], 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(wide[0], wide[1], 4, 2, 1), nn.GroupNorm(8, wide[1]), nn.LeakyReLU(0.2),
            nn.Conv2d(wide[1], wide[2], 4, 2, 1), nn.GroupNorm(8, wide[2]), nn.LeakyReLU(0.2),
            nn.Conv2d(wide[2], 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, images_B3HW: Tensor) -> Tensor:
        logits: Tensor = self.layers(images_B3HW)
        return logits.float()
