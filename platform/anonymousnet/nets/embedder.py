"""A face-recognition network: a face -> a unit vector. Our own attacker, and a judge of others' releases."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.draw import Dropout
from anonymousnet.nets.trunk import Trunk

POOL = 2
"""Side of the squares of the trunk's features whose means the head reads."""


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
        # Means over small squares keep where a feature lies; ArcFace's authors found pooling over all to lose identity.
        side = config.px // 16 // POOL
        self.dropout = Dropout(0.3)
        self.head = nn.Linear(self.trunk.channels * side * side, config.dimensions, bias=False)
        self.scale = nn.BatchNorm1d(config.dimensions, affine=False)

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        features = self.features(faces_B3HW)
        return F.normalize(self.scale(self.head(self.dropout(features))).float())

    def features(self, faces_B3HW: Tensor) -> Tensor:
        """What the head reads: B x (8 width px^2 / 1024)."""
        return F.avg_pool2d(self.trunk(faces_B3HW), POOL).flatten(1)
