"""The critic of the generator: real or painted, for the whole face and for its patches; attributes; the code."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES


class DiscriminatorConfig(BaseModel):
    """Shape of the critic."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 32
    code: int = 64


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the critic says of B faces."""

    realness_B: Tensor
    """Logit: global + half of the mean patch logit."""
    attributes_B40: Tensor
    """Logits."""
    code_BC: Tensor
    """The identity code it believes the face was painted with."""


class Discriminator(nn.Module):
    """B3HW in [-1, 1], H = W = px -> Judgement."""

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

    def forward(self, faces_B3HW: Tensor) -> Judgement:
        x, patch = faces_B3HW, None
        for i, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(x), 0.2)
            if i == 3:
                patch = self.patch(x).float().mean((1, 2, 3))
        assert patch is not None
        features = F.leaky_relu(self.dense(x.flatten(1)), 0.2)
        realness = self.realness(features).float().squeeze(1) + 0.5 * patch
        return Judgement(realness, self.attributes(features).float(), self.code(features).float())
