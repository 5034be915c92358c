"""What the discriminator on feature maps is shown: the painted region enlarged, with colours and cut-outs at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet import draw

VIEWS = ((0.4915, 0.6015, 0.797), (0.5, 0.5, 1.0))
"""Centre (x, y) and side, in shares of the crop, of the square that is shown of the regions face and head."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """DiffAugment (Zhao et al., NeurIPS 2020), colour and cut-out, drawn for B images. No translation:
    the mask stays."""

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    kept: Tensor
    """B1HW in {0, 1}: 0 where a square of half the side is cut out, of every second image."""

    def __call__(self, images_B3HW: Tensor) -> Tensor:
        x = images_B3HW + self.brightness
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * self.saturation + grey
        mean = x.mean((1, 2, 3), keepdim=True)
        return ((x - mean) * self.contrast + mean) * self.kept


def disturbance(n: int, px: int, device: torch.device) -> Disturbance:
    """One drawn for n images of side px."""

    def drawn(low: float, high: float) -> Tensor:
        return draw.uniform(n, 1, 1, 1, device=device) * (high - low) + low

    line = torch.arange(px, device=device)
    centre = draw.uniform(n, 2, device=device) * px
    near = (line - centre[:, :, None]).abs() < px / 4
    cut = near[:, 0, :, None] & near[:, 1, None, :] & (draw.uniform(n, 1, 1, device=device) < 0.5)
    return Disturbance(drawn(-0.25, 0.25), drawn(0.5, 1.5), drawn(0.7, 1.3), (~cut)[:, None].float())


def enlarged(images_BCHW: Tensor, kinds_B: Tensor, px: int) -> Tensor:
    """(B, C, px, px): the square around each image's region (kinds: 0 face, 1 head), resized."""
    views = torch.tensor(VIEWS, device=images_BCHW.device)[kinds_B]
    x, y, side = views.unbind(1)
    zero = torch.zeros_like(side)
    rows = [torch.stack([side, zero, 2 * x - 1], 1), torch.stack([zero, side, 2 * y - 1], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [len(images_BCHW), images_BCHW.shape[1], px, px], False)
    shown = F.grid_sample(images_BCHW, grid, padding_mode="border", align_corners=False)
    return shown.contiguous(memory_format=torch.channels_last)
