"""A face-recognition network: a face -> a unit vector. Our own attacker, and a judge of others' releases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.draw import Dropout
from anonymousnet.nets.dan import exact, mean_shape
from anonymousnet.nets.trunk import Trunk

POOL = 2
"""Side of the squares of the trunk's features whose means are read."""


class EmbedderConfig(BaseModel):
    """Shape of the embedder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 32
    dimensions: int = 128


class Embedder(nn.Module):
    """B3HW in [-1, 1], H = W = px -> B x dimensions, unit length.

    The head reads the trunk's last features all over the face, and the earlier, finer ones at the 68 landmarks: so the
    corner of an eye is compared with the corner of an eye, however the head is turned (Chen et al., CVPR 2013). Where
    the landmarks lie is a linear function of the trunk's features; it is not trained, and starts as the mean shape.
    """

    points_weight: Tensor
    points_bias: Tensor

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.width)
        side = config.px // 16 // POOL
        last, before = 8 * config.width * side**2, 4 * config.width * (2 * side) ** 2
        # Buffers: a step of training would move every one of 12,288 weights, and the landmarks off the face.
        self.register_buffer("points_weight", torch.zeros(68 * 2, last + before))
        self.register_buffer("points_bias", mean_shape().flatten())
        self.groups = (last, *(68 * config.width * 2**i for i in range(3)))
        self.dropout = Dropout(0.3)
        self.head = nn.Linear(sum(self.groups), config.dimensions, bias=False)
        self.scale = nn.BatchNorm1d(config.dimensions, affine=False)

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        return self.embed(self.trunk.maps(faces_B3HW))

    def embed(self, maps: list[Tensor]) -> Tensor:
        """The trunk's maps of faces -> their vectors."""
        return F.normalize(self.scale(self.head(self.dropout(self.features(maps)))).float())

    def features(self, maps: list[Tensor]) -> Tensor:
        """What the head reads of the trunk's maps, B x sum(groups): means over squares of the last; then, coarser and
        coarser resolutions last, each resolution's features at the landmarks."""
        means = pooled(maps)
        where = self.points(means)[:, :, None] * 2 - 1
        with exact(means):
            at = [F.grid_sample(m.float(), where, padding_mode="border", align_corners=False) for m in maps[:-1]]
        return torch.cat([means[:, : self.groups[0]], *(m.flatten(1).to(means) for m in at)], 1)

    def points(self, pooled_BP: Tensor) -> Tensor:
        """`pooled` features -> landmarks (B, 68, 2) in shares of the crop, float32."""
        with exact(pooled_BP):
            return F.linear(pooled_BP.float(), self.points_weight, self.points_bias).view(-1, 68, 2)


def pooled(maps: list[Tensor]) -> Tensor:
    """Means over squares of the trunk's last features, then of those before: what landmarks are read from."""
    return torch.cat([F.avg_pool2d(m, POOL).flatten(1) for m in (maps[-1], maps[-2])], 1)
