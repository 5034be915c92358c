"""The critic of the generator: real or painted, for the whole face and for its patches; attributes; the code.

It learns from pixels, and beside them judges maps of a frozen network that knows faces already (Sauer et al., Projected
GANs, NeurIPS 2021): what a mouth should look like need not be learned again from 15,000 faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES


class DiscriminatorConfig(BaseModel):
    """Shape of the critic."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 48
    code: int = 64
    maps: tuple[int, ...] = ()
    """Channels of the frozen network's maps that it judges."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the critic says of B faces."""

    realness_B: Tensor
    """Logit: global + half of the mean patch logit."""
    seen: list[Tensor]
    """Logits (B, 1, h, w), one at each place of each of the frozen network's maps."""
    attributes_B40: Tensor
    """Logits."""
    code_BC: Tensor
    """The identity code it believes the face was painted with."""


def _reader(channels: int) -> nn.Sequential:
    # It looks wide at once: a first layer that mixed channels alone, place by place, learned next to nothing (ADR 4).
    return nn.Sequential(
        nn.Conv2d(channels, 128, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(128, 128, 3, 1, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(128, 1, 3, 1, 1),
    )  # fmt: skip


class Discriminator(nn.Module):
    """B3HW in [-1, 1], H = W = px, and the K maps (B, C, h, w) of a frozen network -> Judgement."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [3, *(min(config.width * 2**i, config.width * 8) for i in range(5))]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1) for i in range(5))
        self.patch = nn.Conv2d(widths[4], 1, 3, 1, 1)
        flat = widths[5] * (config.px // 32) ** 2
        self.dense = nn.Linear(flat, 256)
        self.realness = nn.Linear(256, 1)
        self.attributes = nn.Linear(256, len(ATTRIBUTES))
        self.code = nn.Linear(256, config.code)
        self.readers = nn.ModuleList(_reader(channels) for channels in config.maps)
        # PyTorch's own start shrinks what passes a layer by a third to a half; five layers on, nothing is left to learn
        # from, and a generator that has learned already runs away from its critic (He et al., ICCV 2015).
        for name, values in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(values, a=0.2)
            else:
                nn.init.zeros_(values)

    def forward(self, faces_B3HW: Tensor, maps: Sequence[Tensor]) -> Judgement:
        x, patch = faces_B3HW, None
        for i, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(x), 0.2)
            if i == 3:
                patch = self.patch(x).float().mean((1, 2, 3))
        assert patch is not None
        features = F.leaky_relu(self.dense(x.flatten(1)), 0.2)
        realness = self.realness(features).float().squeeze(1) + 0.5 * patch
        seen = [reader(m).float() for reader, m in zip(self.readers, maps, strict=True)]
        return Judgement(realness, seen, self.attributes(features).float(), self.code(features).float())
