"""Task `refiner`: Stage III's enlargement of a painted face, on pairs that real faces give.

A face is shrunk and spoilt as a painter spoils it (`degradation`), refined, and compared with itself: per pixel, on
Lite0's feature maps, and by a small discriminator of patches, which comes in after the first steps. The network knows
no size: with `train.px=176` it learns from aligned images, of which there are more, and goes on at 256 from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anonymousnet import draw, weights
from anonymousnet.align.region import FACE, HEAD
from anonymousnet.config import TrainConfig
from anonymousnet.device import to_device
from anonymousnet.nets.lite0 import load_lite0
from anonymousnet.nets.painter_discriminator import SPREAD
from anonymousnet.nets.refiner import FOLD, PatchDiscriminator, Refiner, RefinerConfig, enlarged
from anonymousnet.training.augment import flip, shift
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.degradation import degraded
from anonymousnet.training.engine import Engine
from anonymousnet.training.losses import perceptual_distance, region_l1
from anonymousnet.training.task import Task

REGIONS = (FACE, HEAD)
L1_WEIGHT, ADVERSARIAL_WEIGHT = 2.0, 0.1
ADVERSARIAL_FROM = 150
"""Steps before the discriminator of patches comes in."""
PERCEIVED = (0, 1, 2, 3)
"""Maps of Lite0 that are compared: strides 2 to 16."""
DISCRIMINATOR_RATE = 0.4
"""Learning rate of the discriminator, as a share of the refiner's."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """B faces and what the refiner is given of them."""

    faces: Tensor
    """B3HW in [-1, 1]"""
    small: Tensor
    """B3hw: as a painter would have painted them"""
    region: Tensor
    """B1HW in {0, 1}"""
    weight: Tensor
    """B1HW in [0, 1]"""

    def composite(self, refined: Tensor) -> Tensor:
        """Context outside, the refined face inside."""
        return (refined * self.weight + self.faces * (1 - self.weight)).contiguous(memory_format=torch.channels_last)


class RefinerTask(Task):
    """Refiner and discriminator of patches."""

    name: ClassVar[str] = "refiner"
    weights: ClassVar[str] = "refiner"
    px_multiple: ClassVar[int] = 16
    large: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 8000, "batch": 8, "lr": 5e-4, "ema": 0.998, "px": 256, "width": 48,
    }  # fmt: skip

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        """Raises WeightsError when Lite0's package is not installed."""
        super().__init__(config, contents)
        self.shape = RefinerConfig(px=config.px or 256, width=config.width or 48)
        masks = [region.masks(self.shape.px) for region in REGIONS]
        self.regions_2, self.weights_2 = torch.stack([m[0] for m in masks]), torch.stack([m[1] for m in masks])
        self.window = self.shape.px // 2
        self.lite0 = load_lite0()

    def networks(self) -> dict[str, nn.Module]:
        return {"refiner": self.started(Refiner(self.shape)), "discriminator": PatchDiscriminator()}

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        momentum = 0.9 if isinstance(network, Refiner) else 0.0
        return torch.optim.Adam(network.parameters(), lr=self.config.lr or 5e-4, betas=(momentum, 0.99))

    def lr(self, step: int) -> float:
        """Constant, then down to a twentieth over the last two thirds of the run."""
        left = 1 - step / (self.config.steps or 1)
        return (self.config.lr or 5e-4) * min(1.0, 0.05 + 1.5 * left)

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        refiner, discriminator = engines["refiner"], engines["discriminator"]
        discriminator.set_lr(DISCRIMINATOR_RATE * self.lr(step))
        faces = shift(flip(batch.faces_B3HW), self.shape.px // 32)
        pairs = self._pairs(faces, draw.integers(len(REGIONS), len(faces), device=faces.device))
        output = refiner.module(pairs.small, pairs.faces, pairs.region)
        refined = pairs.composite(output)
        real, fake = self._windows(pairs.faces, refined)
        with torch.no_grad():
            real_maps = self._maps(real)
        maps = self._maps(fake)
        near = [(maps[i], real_maps[i], SPREAD[i]) for i in PERCEIVED]
        alike = perceptual_distance(*zip(*near, strict=True))
        difference, _ = region_l1(output, pairs.faces, pairs.weight, FOLD)
        loss, parts = L1_WEIGHT * difference + alike, {"l1": difference.detach(), "perceptual": alike.detach()}
        if step >= ADVERSARIAL_FROM:
            parts |= self._discriminator_step(discriminator, real, fake.detach())
            discriminator.module.requires_grad_(False)
            loss = loss - ADVERSARIAL_WEIGHT * discriminator.module(fake).mean()
            discriminator.module.requires_grad_(True)
        refiner.step(loss)
        return parts

    def _pairs(self, faces: Tensor, kinds: Tensor) -> Pairs:
        region, weight = self.regions_2.to(faces)[kinds], self.weights_2.to(faces)[kinds]
        return Pairs(faces, degraded(faces, REGIONS, kinds, FOLD), region, weight)

    def _windows(self, *images: Tensor) -> list[Tensor]:
        """The same square of all images, half as wide as they, at random about the face."""
        spare = self.shape.px - self.window
        y, x = (int(v) for v in torch.randint(spare // 4, spare + 1, (2,)))
        cut = [image[:, :, y : y + self.window, x : x + self.window] for image in images]
        return [c.contiguous(memory_format=torch.channels_last) for c in cut]

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = to_device(self.lite0, images.device)(images)
        return maps

    def _discriminator_step(self, engine: Engine, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        on_real, on_fake = engine.module(torch.cat([real, fake])).chunk(2)
        engine.step(F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean())
        return {"d_real": on_real.detach().mean(), "d_fake": on_fake.detach().mean()}

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        """How far refined faces are from held-out ones, beside their bicubic enlargements."""
        refined, larger, pairs = self._held_out(networks["refiner"], held_out, min(48, len(held_out)))
        real_maps = self._maps(pairs.faces)
        scores = {}
        for name, images in (("refined", refined), ("bicubic", larger)):
            maps = self._maps(images)
            near = [(maps[i], real_maps[i], SPREAD[i]) for i in PERCEIVED]
            scores[f"{name}_l1"] = float(region_l1(images, pairs.faces, pairs.weight, FOLD)[0])
            scores[f"{name}_perceptual"] = float(perceptual_distance(*zip(*near, strict=True)))
        return scores

    def _held_out(self, refiner: nn.Module, held_out: FaceTable, n: int) -> tuple[Tensor, Tensor, Pairs]:
        device = next(refiner.parameters()).device
        faces = held_out.batch(np.linspace(0, len(held_out) - 1, n).astype(np.int64), device).faces_B3HW
        pairs = self._pairs(faces, torch.arange(n, device=device) % len(REGIONS))
        refined = refiner(pairs.small, pairs.faces, pairs.region)
        return pairs.composite(refined), pairs.composite(enlarged(pairs.small)), pairs

    def samples(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> Tensor | None:
        """Columns of faces; rows: photo, its spoilt and enlarged copy, the same refined."""
        refined, larger, pairs = self._held_out(networks["refiner"], held_out, min(8, len(held_out)))
        return torch.cat([torch.cat(list(row), 2) for row in (pairs.faces, larger, refined)], 1)

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        weights.write(folder, "refiner", self.shape.model_dump(), networks["refiner"].state_dict(), notes)
