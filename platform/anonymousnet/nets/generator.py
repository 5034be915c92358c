"""Stage III's network: it paints the region from the context, the released attributes and a random code.

It has no input through which the hidden face could reach it. All randomness (code and per-pixel noise) is handed in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES, RegionName


class GeneratorConfig(BaseModel):
    """Shape of the generator."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 48
    """Channels at px / 2, the finest resolution it works at; doubled at every halving, at most `widest`."""
    widest: int = 256
    code: int = 64
    """Length of the identity code."""
    style: int = 128
    """Length of the vector that modulates the decoder."""
    region: RegionName = "face"
    """What it learned to paint."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at px / 2, px / 4, px / 8, px / 16."""
        return tuple(min(self.width * 2**i, self.widest) for i in range(4))


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.LeakyReLU(0.2, inplace=True))


class FiLMBlock(nn.Module):
    """A residual block whose features are scaled and shifted by the style (Perez et al., AAAI 2018), with noise."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.film = nn.Linear(style, 2 * channels)
        self.noise = nn.Parameter(torch.zeros(channels))
        nn.init.normal_(self.film.weight, std=0.05)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, style: Tensor, noise_B1HW: Tensor) -> Tensor:
        y = self.conv1(x)
        scale, shift = self.film(style)[:, :, None, None].chunk(2, 1)
        # Unit variance per face and channel, so that the style alone sets the strength of every feature.
        y = F.instance_norm(y)
        y = torch.addcmul(shift, y, 1 + scale) + self.noise[:, None, None].to(y.dtype) * noise_B1HW.to(y.dtype)
        out: Tensor = x + self.conv2(F.leaky_relu(y, 0.2, inplace=True))
        return out


def style(mapping: nn.Module, attributes_B40: Tensor, code_BC: Tensor, gain: float = 1.0) -> Tensor:
    """What modulates the decoder, B x style: of the code its direction alone counts, `gain` times as loud."""
    normed = code_BC * torch.rsqrt(code_BC.square().mean(1, keepdim=True) + 1e-8) * gain
    out: Tensor = mapping(torch.cat([attributes_B40 * 2 - 1, normed], 1))
    return out


class Generator(nn.Module):
    """U-Net with a modulated decoder.

    context B3HW in [-1, 1] (region blanked, or as visible as strength allows); region B1HW in {0, 1};
    strength B in [0, 1]; attributes B40 in {0, 1}; code B x code, standard normal; noise B1HW, standard normal.
    Returns B3HW in [-1, 1]: the whole crop painted; the caller keeps the region and its feather.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.gain = 1.0
        """How loud the code is to the mapping."""
        widths, style = config.widths, config.style
        self.mapping = nn.Sequential(
            nn.Linear(len(ATTRIBUTES) + config.code, style),
            nn.LeakyReLU(0.2),
            nn.Linear(style, style),
            nn.LeakyReLU(0.2),
        )
        # On a CPU a layer at full resolution costs more than all others together: fold 2x2 pixels into channels.
        self.stem = _conv(4 * 4, widths[0])
        self.down = nn.ModuleList(_conv(widths[i], widths[i + 1], 2) for i in range(3))
        self.middle = nn.ModuleList(FiLMBlock(widths[3], style) for _ in range(3))
        self.up = nn.ModuleList(_conv(widths[i + 1] + widths[i], widths[i]) for i in (2, 1, 0))
        self.modulated = nn.ModuleList(FiLMBlock(widths[i], style) for i in (2, 1, 0))
        self.unfold = _conv(widths[0], 4 * 16)
        self.out = nn.Conv2d(16, 3, 3, 1, 1)

    def forward(
        self, context: Tensor, region: Tensor, strength: Tensor, attributes: Tensor, code: Tensor, noise: Tensor
    ) -> Tensor:
        styled = style(self.mapping, attributes, code, self.gain)
        x = self.stem(F.pixel_unshuffle(torch.cat([context, region * strength[:, None, None, None]], 1), 2))
        skips = [x]
        for down in self.down:
            x = down(x)
            skips.append(x)
        for block in self.middle:
            x = block(x, styled, noise[:, :, ::16, ::16])
        for i, (up, block) in enumerate(zip(self.up, self.modulated, strict=True)):
            step = 2 ** (3 - i)
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), skips[2 - i]], 1))
            x = block(x, styled, noise[:, :, ::step, ::step])
        return torch.tanh(self.out(F.pixel_shuffle(self.unfold(x), 2)).float())
