"""Strength 0: the paper's whole-face attribute translation (StarGAN: Choi et al., CVPR 2018), and its critic.

It sees the whole face, so it carries no pixel guarantee; it is here to be compared with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES

OPEN = 0.98
"""Faces are drawn in from -1 and 1 this far, where the hyperbolic tangent can be undone."""


class TranslatorConfig(BaseModel):
    """Shape of the translator."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 64
    width: int = 32
    blocks: int = 4


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=False)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), _norm(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), _norm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class Translator(nn.Module):
    """Face B3HW in [-1, 1] and target attributes B40 in {0, 1} -> face B3HW in [-1, 1].

    StarGAN paints the whole picture; this paints what changes, so that it starts as the identity and not as a smear.
    """

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        layers: list[nn.Module] = [nn.Conv2d(3 + len(ATTRIBUTES), w, 7, 1, 3, bias=False), _norm(w), nn.ReLU()]
        for i in range(2):
            layers += [nn.Conv2d(w * 2**i, w * 2 ** (i + 1), 4, 2, 1, bias=False), _norm(w * 2 ** (i + 1)), nn.ReLU()]
        layers += [_Residual(4 * w) for _ in range(config.blocks)]
        for i in (1, 0):
            layers += [nn.ConvTranspose2d(w * 2 ** (i + 1), w * 2**i, 4, 2, 1, bias=False), _norm(w * 2**i), nn.ReLU()]
        change = nn.Conv2d(w, 3, 7, 1, 3)
        nn.init.zeros_(change.weight)
        nn.init.zeros_(change.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(*layers, change)

    def forward(self, faces: Tensor, attributes: Tensor) -> Tensor:
        planes = (attributes * 2 - 1)[:, :, None, None].expand(-1, -1, *faces.shape[2:])
        change = self.body(torch.cat([faces, planes], 1)).float()
        return torch.tanh(torch.atanh(faces.float().clamp(-OPEN, OPEN)) + change)


class TranslationCritic(nn.Module):
    """B3HW -> (patch scores B, attribute logits B40); no normalisation, as the gradient penalty wants."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        depth = 5 if config.px >= 64 else 4
        widths = [3, *(config.width * 2**i for i in range(depth))]
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1) for i in range(depth))
        self.patch = nn.Conv2d(widths[-1], 1, 3, 1, 1, bias=False)
        self.attributes = nn.Linear(widths[-1] * (config.px // 2**depth) ** 2, len(ATTRIBUTES), bias=False)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        x = faces
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.01)
        return self.patch(x).float().mean((1, 2, 3)), self.attributes(x.flatten(1)).float()
