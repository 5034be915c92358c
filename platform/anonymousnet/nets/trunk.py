"""The residual trunk that the classifier and the embedder share (He et al., CVPR 2016, basic blocks)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; halves the resolution where stride is 2."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        nn.init.zeros_(self.norm2.weight)  # every block starts as the identity
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride > 1 else nn.Identity(),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Trunk(nn.Module):
    """B3HW in [-1, 1] -> B C H/16 W/16 features, C = 8 * width."""

    def __init__(self, width: int, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        channels = width
        for i, count in enumerate(blocks):
            for j in range(count):
                layers.append(BasicBlock(channels, width * 2**i, 2 if i and not j else 1))
                channels = width * 2**i
            self.ends.append(len(layers))
        self.blocks = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.maps(images_B3HW)[-1]

    def maps(self, images_B3HW: Tensor) -> list[Tensor]:
        """What each resolution ends with: (B, width 2^i, H / 2^(i + 1), W / 2^(i + 1)), i = 0, 1, ..."""
        features: Tensor = self.stem(images_B3HW)
        found = []
        for i, block in enumerate(self.blocks, 1):
            features = block(features)
            if i in self.ends:
                found.append(features)
        return found
