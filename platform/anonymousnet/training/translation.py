"""Task `translator`: the paper's whole-face attribute translation at strength 0, with StarGAN's losses
(Choi et al., CVPR 2018, eqs. 5 to 7): WGAN-GP, attribute classification, cycle reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anonymousnet import draw, weights
from anonymousnet.config import TrainConfig
from anonymousnet.nets.translator import TranslationCritic, Translator, TranslatorConfig
from anonymousnet.training.augment import flip
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine
from anonymousnet.training.losses import attribute_loss, gradient_penalty
from anonymousnet.training.task import Task

LAMBDA_ATTRIBUTES, LAMBDA_RECONSTRUCTION, LAMBDA_PENALTY = 1.0, 10.0, 10.0
CRITIC_STEPS = 3
"""Critic updates per generator update; StarGAN's authors take 5, with twenty times as many steps."""


class TranslatorTask(Task):
    """Face and target attributes in, face out."""

    name: ClassVar[str] = "translator"
    weights: ClassVar[str] = "translator"
    max_zero_stage: ClassVar[int] = 2
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 6000, "batch": 16, "lr": 2e-4, "ema": 0.998, "px": 64, "width": 32,
    }  # fmt: skip

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        super().__init__(config, contents)
        self.shape = TranslatorConfig(px=config.px or 64, width=config.width or 32)

    def networks(self) -> dict[str, nn.Module]:
        return {"translator": Translator(self.shape), "critic": TranslationCritic(self.shape)}

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.lr or 2e-4, betas=(0.5, 0.999))

    def lr(self, step: int) -> float:
        """Constant for the first half, then linearly to nothing, as StarGAN's authors do."""
        return (self.config.lr or 2e-4) * min(1.0, 2 * (1 - step / (self.config.steps or 1)) + 0.01)

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        real, truth = flip(batch.faces_B3HW), batch.attributes_B40
        target = truth.roll(1, 0)  # another person's: batches are drawn at random
        with torch.no_grad():
            fake = engines["translator"].module(real, target)
        parts = self._critic_step(engines["critic"], real, truth, fake)
        if step % CRITIC_STEPS == 0:
            parts |= self._translator_step(engines["translator"], engines["critic"].module, real, truth, target)
        return parts

    def _critic_step(self, critic: Engine, real: Tensor, truth: Tensor, fake: Tensor) -> dict[str, Tensor]:
        on_real, logits = critic.module(real)
        on_fake, _ = critic.module(fake)
        by_attribute, attribute_parts = attribute_loss(logits, truth)
        alpha = draw.uniform(len(real), 1, 1, 1, device=real.device)
        mixed = (alpha * real + (1 - alpha) * fake).detach().requires_grad_(True)
        penalty = gradient_penalty(critic.module(mixed)[0], mixed)
        # StarGAN sums the attribute loss over attributes.
        by_attribute = by_attribute * truth.shape[1]
        distance = on_real.mean() - on_fake.mean()
        critic.step(-distance + LAMBDA_ATTRIBUTES * by_attribute + LAMBDA_PENALTY * penalty)
        return {
            "wasserstein": distance.detach(),
            "penalty": penalty.detach(),
            "d_accuracy": attribute_parts["accuracy"],
        }

    def _translator_step(
        self, translator: Engine, critic: nn.Module, real: Tensor, truth: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        fake = translator.module(real, target)
        critic.requires_grad_(False)
        score, logits = critic(fake)
        critic.requires_grad_(True)
        by_attribute, parts = attribute_loss(logits, target)
        back = (translator.module(fake, truth) - real).abs().mean()
        loss = -score.mean() + LAMBDA_ATTRIBUTES * by_attribute * truth.shape[1] + LAMBDA_RECONSTRUCTION * back
        translator.step(loss)
        return {"reconstruction": back.detach(), "g_accuracy": parts["accuracy"]}

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        """Share of target attributes that the critic's head reads back, and the cycle's error, on held-out faces."""
        batch = held_out.batch(
            torch.arange(min(128, len(held_out))).numpy(), next(networks["critic"].parameters()).device
        )
        target = batch.attributes_B40.roll(1, 0)
        fake = networks["translator"](batch.faces_B3HW, target)
        _, logits = networks["critic"](fake)
        back = networks["translator"](fake, batch.attributes_B40)
        return {
            "critic_reads_back": float(((logits > 0) == (target > 0.5)).float().mean()),
            "reconstruction": float((back - batch.faces_B3HW).abs().mean()),
        }

    def samples(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> Tensor | None:
        """Columns of faces; rows: photo, its own attributes, another person's."""
        batch = held_out.batch(
            torch.arange(min(12, len(held_out))).numpy(), next(networks["critic"].parameters()).device
        )
        net = networks["translator"]
        own, other = batch.attributes_B40, batch.attributes_B40.roll(1, 0)
        rows = [batch.faces_B3HW, net(batch.faces_B3HW, own), net(batch.faces_B3HW, other)]
        return torch.cat([torch.cat(list(row.float()), 2) for row in rows], 1)

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        weights.write(folder, "translator", self.shape.model_dump(), networks["translator"].state_dict(), notes)
