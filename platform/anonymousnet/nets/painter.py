"""Stage III's painter: a face at low resolution, from its context and from what is drawn or released.

It has no input through which the hidden face could reach it: landmarks and tone are drawn where a face is released, and
the region of the context is blanked again in here. All randomness (latent and noise) is handed in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.nets.generator import FiLMBlock, style

LINES = 4
"""Planes of landmark lines: jaw; brows and nose; eyes; mouth."""
TONE = 3
"""Numbers of the mean colour of the region `face`, whichever region is painted."""

PATHS: tuple[tuple[tuple[int, ...], ...], ...] = (
    (tuple(range(17)),),
    (tuple(range(17, 22)), tuple(range(22, 27)), tuple(range(27, 31)), tuple(range(31, 36))),
    ((*range(36, 42), 36), (*range(42, 48), 42)),
    ((*range(48, 60), 48), (*range(60, 68), 60)),
)
"""Which of the 68 landmarks (iBUG order) the lines of each plane join."""


class PainterConfig(BaseModel):
    """Shape of the painter."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 64
    width: int = 48
    """Channels at px / 2; half as many at px, doubled at every halving, at most `widest`."""
    widest: int = 256
    latent: int = 64
    style: int = 128
    """Length of the vector that modulates the decoder."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at px, px / 2, px / 4, px / 8, px / 16."""
        return (self.width // 2, *(min(self.width * 2**i, self.widest) for i in range(4)))


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.LeakyReLU(0.2, inplace=True))


class Painter(nn.Module):
    """U-Net with a modulated decoder, whose finest layer works at full resolution.

    context B3HW in [-1, 1]; region B1HW in {0, 1}; lines B4HW in [0, 1]; tone B3 in [-1, 1]; attributes B40 in {0, 1};
    latent B x latent and noise B1HW, standard normal. H = W = px.
    Returns B3HW in [-1, 1]: the whole crop painted; the caller keeps the region and its feather.
    """

    def __init__(self, config: PainterConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.mapping = nn.Sequential(
            nn.Linear(len(ATTRIBUTES) + config.latent + TONE, config.style), nn.LeakyReLU(0.2),
            nn.Linear(config.style, config.style), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.stem = _conv(3 + 1 + LINES + TONE, widths[0])
        self.down = nn.ModuleList(_conv(widths[i], widths[i + 1], 2) for i in range(4))
        self.middle = nn.ModuleList(FiLMBlock(widths[4], config.style) for _ in range(3))
        self.up = nn.ModuleList(_conv(widths[i + 1] + widths[i], widths[i]) for i in (3, 2, 1))
        self.finest = nn.Conv2d(widths[1], widths[0], 1)
        self.up.append(_conv(2 * widths[0], widths[0]))
        self.modulated = nn.ModuleList(FiLMBlock(widths[i], config.style) for i in (3, 2, 1, 0))
        # No pixels are folded into channels on the way out: folding left a raster of 2x2 pixels.
        self.out = nn.Conv2d(widths[0], 3, 3, 1, 1)

    def forward(
        self, context: Tensor, region: Tensor, lines: Tensor, tone: Tensor, attributes: Tensor, latent: Tensor,
        noise: Tensor,
    ) -> Tensor:  # fmt: skip
        styled = self._style(attributes, latent, tone)
        x = self.stem(torch.cat([context * (1 - region), conditions(region, lines, tone)], 1))
        skips = [x]
        for down in self.down:
            x = down(x)
            skips.append(x)
        for block in self.middle:
            x = block(x, styled, noise[:, :, ::16, ::16])
        for i, (up, block) in enumerate(zip(self.up, self.modulated, strict=True)):
            step = 2 ** (3 - i)
            # Repeated pixels would leave a raster at full resolution.
            larger = F.interpolate(x, scale_factor=2.0) if step > 1 else _smooth(self.finest(x))
            x = up(torch.cat([larger, skips[3 - i]], 1))
            x = block(x, styled, noise[:, :, ::step, ::step])
        return torch.tanh(self.out(x).float())

    def _style(self, attributes_B40: Tensor, latent_BC: Tensor, tone_B3: Tensor) -> Tensor:
        return style(self.mapping, torch.cat([attributes_B40, (tone_B3 + 1) / 2], 1), latent_BC)


def _smooth(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def conditions(region_B1HW: Tensor, lines_B4HW: Tensor, tone_B3: Tensor) -> Tensor:
    """B8HW: the region, and inside it the landmark lines and the tone. Painter and discriminator are told the same."""
    return torch.cat([region_B1HW, lines_B4HW * region_B1HW, tone_B3[:, :, None, None] * region_B1HW], 1)


def landmark_lines(points_B682: Tensor, px: int) -> Tensor:
    """B4HW in [0, 1]: lines through the landmarks (continuous pixels of a px x px crop), one pixel wide, soft edges."""
    points = points_B682.float()
    line = torch.arange(px, dtype=torch.float32, device=points.device) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()])[None].expand(len(points), -1, -1)
    planes = []
    with torch.autocast(points.device.type, enabled=False):  # bfloat16 knows a pixel's place to half a pixel
        for paths in PATHS:
            starts = points[:, [i for path in paths for i in path[:-1]]]
            ends = points[:, [i for path in paths for i in path[1:]]]
            planes.append(_nearest(starts, ends, pixels))
    squared = torch.stack(planes, 1).view(len(points), LINES, px, px)
    return (1 - squared.clamp(min=0).sqrt()).clamp(0, 1)


def _nearest(starts_BS2: Tensor, ends_BS2: Tensor, pixels_B2P: Tensor) -> Tensor:
    """Squared distance of each pixel to the nearest of S segments, BP."""
    direction = ends_BS2 - starts_BS2
    length = direction.norm(dim=2, keepdim=True).clamp(min=1e-3)
    along = direction / length
    across = torch.stack([-along[..., 1], along[..., 0]], 2)
    # Both coordinates of a pixel in a segment's own frame are linear in it: one product each.
    t = torch.baddbmm(-(along * starts_BS2).sum(2, keepdim=True), along, pixels_B2P)
    off = torch.baddbmm(-(across * starts_BS2).sum(2, keepdim=True), across, pixels_B2P)
    beyond = t - torch.minimum(t.clamp(min=0), length)
    return (off.square_() + beyond.square_()).amin(1)
