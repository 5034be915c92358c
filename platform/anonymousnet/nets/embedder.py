"""A face-recognition network: a face -> a unit vector. Our own attacker, and a judge of others' releases."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.draw import Dropout
from anonymousnet.nets.trunk import Trunk


class EmbedderConfig(BaseModel):
    """Shape of the embedder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 32
    dimensions: int = 256


class Embedder(nn.Module):
    """B3HW in [-1, 1], H = W = px -> B x dimensions, unit length."""

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.width)
        # A strided convolution keeps where a feature lies; ArcFace's authors found pooling to lose identity.
        side = config.px // 16
        self.squeeze = nn.Conv2d(self.trunk.channels, self.trunk.channels // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(self.trunk.channels // 2)
        self.dropout = Dropout(0.3)
        self.head = nn.Linear(self.trunk.channels // 2 * side * side, config.dimensions, bias=False)
        self.scale = nn.BatchNorm1d(config.dimensions, affine=False)

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        features = F.relu(self.norm(self.squeeze(self.trunk(faces_B3HW))))
        return F.normalize(self.scale(self.head(self.dropout(features.flatten(1)))).float())
