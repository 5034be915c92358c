"""dlib's face recognition network in PyTorch, reading dlib's own weights: the same vectors, several times as fast.

The architecture is that of dlib's example `dnn_face_recognition_ex.cpp` (King, 2017): a ResNet of 29 convolutions after
He et al. (CVPR 2016) with half their filters. dlib's wheel computes a face in 80 to 110 ms, this in under 20.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from anonymousnet.errors import WeightsError

PX = 150
"""Side of the chips it takes."""
BLOCKS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""(filters, blocks, whether the first block halves the resolution) from input to output."""
MEAN = (122.782, 117.001, 104.298)


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights; where sizes differ, the smaller is padded with zeros."""

    def __init__(self, channels_in: int, channels_out: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        # dlib pads convolutions of stride 1 alone.
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 2 if halve else 1, 0 if halve else 1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.halve:
            x = F.avg_pool2d(x, 2)
        high, wide = max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3])
        channels = y.shape[1]
        return F.relu(_grown(y, channels, high, wide) + _grown(x, channels, high, wide))


class DlibResNet(nn.Module):
    """Float RGB chips in [0, 255] (B, 3, PX, PX) -> vectors (B, 128), not of unit length, as dlib's."""

    mean_3: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2)
        blocks, channels = [], 32
        for filters, count, halves in BLOCKS:
            for i in range(count):
                blocks.append(Residual(channels, filters, halves and i == 0))
                channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 128, bias=False)
        self.register_buffer("mean_3", torch.tensor(MEAN)[:, None, None])

    def forward(self, chips_B3HW: Tensor) -> Tensor:
        x = F.relu(self.stem((chips_B3HW - self.mean_3) / 256))
        x = self.blocks(F.max_pool2d(x, 3, 2))
        out: Tensor = self.head(x.mean((2, 3)))
        return out

    @classmethod
    def read(cls, path: Path) -> DlibResNet:
        """With the weights of dlib's `dlib_face_recognition_resnet_model_v1.dat`. Raises WeightsError."""
        net = cls().eval()
        convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        try:
            found = _tensors(path.read_bytes())
            with torch.no_grad():
                for conv in convolutions:
                    _fill(conv, *(found.pop(0) for _ in range(2)))
                # dlib keeps a matrix from input to output.
                net.head.weight.copy_(torch.from_numpy(found.pop(0)).reshape(net.head.in_features, -1).T)
        except (OSError, IndexError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path}: expected dlib's face recognition network ({error}); reinstall it") from error
        return net


def _grown(x: Tensor, channels: int, high: int, wide: int) -> Tensor:
    return F.pad(x, (0, wide - x.shape[3], 0, high - x.shape[2], 0, channels - x.shape[1]))


def _fill(conv: nn.Conv2d, filters: NDArray[np.float32], affine: NDArray[np.float32]) -> None:
    """Filters and biases, and the scale and shift per channel behind them folded in."""
    count = conv.out_channels
    weight, bias = torch.from_numpy(filters[:-count]), torch.from_numpy(filters[-count:])
    scale, shift = (torch.from_numpy(part) for part in (affine[:count], affine[count:]))
    conv.weight.copy_(weight.reshape(conv.weight.shape) * scale[:, None, None, None])
    assert conv.bias is not None
    conv.bias.copy_(bias * scale + shift)


def _tensors(data: bytes) -> list[NDArray[np.float32]]:
    """The weights of all layers, from input to output.

    A layer is its name and then (a dense layer: its two sizes, then) its weights as a tensor: version 2, four sizes,
    little-endian float32. Whole numbers are a byte that says how many bytes follow, and these.
    """
    found = []
    for name in re.finditer(rb"\x01\x05con_4|\x01\x07affine_|\x01\x04fc_2", data):
        at = name.end()
        if name.group().endswith(b"fc_2"):
            at = _number(data, _number(data, at)[1])[1]
        version, at = _number(data, at)
        if version != 2:
            raise ValueError(f"tensor of version {version}, expected 2")
        sizes = []
        for _ in range(4):
            size, at = _number(data, at)
            sizes.append(size)
        found.append(np.frombuffer(data, "<f4", math.prod(sizes), at).astype(np.float32))
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    """(whole number, where the next thing stands)."""
    count = data[at]
    if not 1 <= count <= 8:
        raise ValueError(f"no number at byte {at}")
    return int.from_bytes(data[at + 1 : at + 1 + count], "little"), at + 1 + count
