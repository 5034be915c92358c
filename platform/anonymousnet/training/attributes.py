"""Tasks `attributes` and `surroundings`: Stage I's classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.config import TrainConfig
from anonymousnet.metrics.attributes import score_attributes
from anonymousnet.nets.classifier import Classifier, ClassifierConfig, Surroundings
from anonymousnet.training.augment import erase, flip, jitter, recolour
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine
from anonymousnet.training.losses import attribute_loss
from anonymousnet.training.task import Task


class AttributesTask(Task):
    """Binary cross-entropy on 40 logits of augmented faces."""

    name: ClassVar[str] = "attributes"
    weights: ClassVar[str] = "attributes"
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 2400, "batch": 64, "lr": 2e-3, "ema": 0.998, "px": 128, "width": 32,
    }  # fmt: skip
    network: ClassVar[type[Classifier]] = Classifier

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        super().__init__(config, contents)
        self.shape = ClassifierConfig(px=config.px or 128, width=config.width or 32)

    def networks(self) -> dict[str, nn.Module]:
        return {"classifier": self.started(self.network(self.shape))}

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        engine = engines["classifier"]
        engine.module.train()
        faces = jitter(flip(batch.faces_B3HW), degrees=6, scale=0.08, shift=0.03)
        faces = erase(recolour(faces, 0.2, 0.25, 0.25), chance=0.25)
        logits = engine.module(faces.contiguous(memory_format=torch.channels_last)).float()
        loss, parts = attribute_loss(logits, batch.attributes_B40)
        engine.step(loss)
        return {"loss": loss.detach(), **parts}

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        logits = logits_of(networks["classifier"], held_out)
        return score_attributes(torch.sigmoid(logits).numpy(), held_out.attributes_N40).means()

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        kind, state = weights.named(self.network), networks["classifier"].state_dict()
        weights.write(folder, kind, self.shape.model_dump(), state, notes)


class SurroundingsTask(AttributesTask):
    """The same from what lies outside the region: small, as what it reads is large."""

    name: ClassVar[str] = "surroundings"
    weights: ClassVar[str] = "surroundings"
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 2400, "batch": 64, "lr": 2e-3, "ema": 0.998, "px": 64, "width": 16,
    }  # fmt: skip
    network: ClassVar[type[Classifier]] = Surroundings


def logits_of(net: nn.Module, table: FaceTable) -> Tensor:
    """Logits N40 of all faces and of their mirror images, averaged (float32, CPU)."""
    device = next(net.parameters()).device
    found = []
    for rows in np.array_split(np.arange(len(table)), max(1, len(table) // 64)):
        faces = table.batch(rows, device).faces_B3HW
        found.append((net(faces).float() + net(faces.flip(3)).float()).cpu() / 2)
    return torch.cat(found)
