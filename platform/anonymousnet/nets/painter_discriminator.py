"""The painter's two discriminators: one on pixels, one on a frozen network's feature maps (Projected GANs).

Both see the composite: context outside, painting inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.nets.painter import LINES, TONE, conditions


class PixelDiscriminatorConfig(BaseModel):
    """Shape of the discriminator on pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 64
    width: int = 48
    """Channels at px / 2; doubled at every halving, at most `widest`."""
    widest: int = 256
    latent: int = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the discriminator on pixels says of B faces."""

    realness_B: Tensor
    """Logit: global + half of the mean patch logit."""
    attributes_B40: Tensor
    """Logits."""
    latent_BC: Tensor
    """The latent it believes the face was painted with."""


class PixelDiscriminator(nn.Module):
    """faces B3HW in [-1, 1], H = W = px, with the region, the landmark lines and the tone they were painted with.

    Told lines and tone as the painter is, it judges whether a face follows them.
    """

    def __init__(self, config: PixelDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        told = 3 + 1 + LINES + TONE
        widths = [told, *(min(config.width * 2**i, config.widest) for i in range(5))]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1) for i in range(5))
        self.patch = nn.Conv2d(widths[4], 1, 3, 1, 1)
        self.dense = nn.Linear(widths[5] * (config.px // 32) ** 2, 256)
        self.realness = nn.Linear(256, 1)
        self.attributes = nn.Linear(256, len(ATTRIBUTES))
        self.latent = nn.Linear(256, config.latent)
        # PyTorch's own start shrinks what passes a layer by a third to a half (He et al., ICCV 2015).
        for name, values in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(values, a=0.2)
            else:
                nn.init.zeros_(values)

    def forward(self, faces: Tensor, region: Tensor, lines: Tensor, tone: Tensor) -> Verdict:
        x, patch = torch.cat([faces, conditions(region, lines, tone)], 1), faces.new_zeros(())
        x = x.contiguous(memory_format=torch.channels_last)
        for i, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(x), 0.2)
            if i == 3:
                patch = self.patch(x).float().mean((1, 2, 3))
        features = F.leaky_relu(self.dense(x.flatten(1)), 0.2)
        realness = self.realness(features).float().squeeze(1) + 0.5 * patch
        return Verdict(realness, self.attributes(features).float(), self.latent(features).float())


MIXED = (32, 64, 64, 64, 64)
"""Channels of each map after the fixed mixing, fine to coarse."""
SPREAD = (6.2, 10.5, 8.9, 8.0, 2.4)
"""Standard deviation of Lite0's maps of enlarged CelebA faces, which each is divided by."""


class FeatureDiscriminator(nn.Module):
    """Five maps of a frozen network, fine to coarse (`channels` wide) -> logits of each, B1hw.

    Channels, then scales from coarse to fine, are mixed at random once for all (CCM and CSM of Sauer et al., Projected
    GANs, NeurIPS 2021): no head can look at a few channels alone. Heads with spectral and group norms.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for i, (before, after) in enumerate(zip(channels, MIXED, strict=True)):
            self.register_buffer(f"channel_mixing{i}", _random(after, before, 1))
            if i:
                self.register_buffer(f"scale_mixing{i}", _random(after, after, 3))
        self.heads = nn.ModuleList([
            nn.Sequential(_halved(32, 64), _halved(64, 128), _logits()),
            nn.Sequential(_halved(64, 128), _kept(128, 128), _logits()),
            nn.Sequential(_halved(64, 128), _kept(128, 128), _logits()),
            nn.Sequential(_kept(64, 128), _halved(128, 128), _logits()),
            nn.Sequential(_kept(64, 128), _kept(128, 128), _logits()),
        ])  # fmt: skip

    def mix(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps after the fixed mixing; what the heads read."""
        flat = [
            F.conv2d(m / spread, self.get_buffer(f"channel_mixing{i}"))
            for i, (m, spread) in enumerate(zip(maps, SPREAD, strict=True))
        ]
        mixed: list[Tensor] = []
        for i in range(len(flat) - 1, 0, -1):
            x = flat[i]
            if mixed:
                x = (x + F.interpolate(mixed[0], x.shape[-2:], mode="bilinear")) * math.sqrt(0.5)
            mixed.insert(0, F.conv2d(x, self.get_buffer(f"scale_mixing{i}"), padding=1) * math.sqrt(0.5))
        return [flat[0], *mixed]

    def forward(self, mixed: Sequence[Tensor]) -> list[Tensor]:
        return [head(m).float() for head, m in zip(self.heads, mixed, strict=True)]


def _random(channels_out: int, channels_in: int, kernel: int) -> Tensor:
    weight = torch.empty(channels_out, channels_in, kernel, kernel)
    return nn.init.kaiming_normal_(weight)


def _halved(channels_in: int, channels_out: int) -> nn.Sequential:
    conv = spectral_norm(nn.Conv2d(channels_in, channels_out, 4, 2, 1))
    return nn.Sequential(conv, nn.GroupNorm(8, channels_out), nn.LeakyReLU(0.2))


def _kept(channels_in: int, channels_out: int) -> nn.Sequential:
    conv = spectral_norm(nn.Conv2d(channels_in, channels_out, 3, 1, 1))
    return nn.Sequential(conv, nn.GroupNorm(8, channels_out), nn.LeakyReLU(0.2))


def _logits() -> nn.Module:
    return spectral_norm(nn.Conv2d(128, 1, 3, 1, 1))
