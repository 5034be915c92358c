"""Task `generator`: Stage III's generator that never sees the face, and its critic.

Each step paints half of the batch's contexts twice. Painting A has the true attributes and is held near the photo
(an L1 that fades: a start, not a goal). Painting B has another code, and for three faces in four another person's
attributes, which is what Stage II releases at small epsilon; nothing holds it near the photo, so that code and
attributes, not the photo, decide what is painted. The critic judges the composite: context outside, painting inside.

Two faces of a batch always share their codes: the shipped embedder, frozen, is to see one person in both, two people
where the codes differ, and in neither the person in the photo. So a code is a person, whatever surrounds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anonymousnet import draw, weights
from anonymousnet.align.region import FACE, REGIONS
from anonymousnet.config import STRENGTHS, TrainConfig
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.nets.discriminator import Discriminator, DiscriminatorConfig, Judgement
from anonymousnet.nets.generator import Generator, GeneratorConfig
from anonymousnet.training.augment import flip, shift
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine
from anonymousnet.training.losses import (
    attribute_loss,
    code_loss,
    critic_loss,
    generator_loss,
    r1_penalty,
    region_l1,
    shape_distance,
    tone_distance,
)  # fmt: skip
from anonymousnet.training.sight import Seen, Sight, identity_loss
from anonymousnet.training.task import Task

R1_EVERY, R1_GAMMA = 16, 1.0
L1_START, L1_END, L1_FADE = 4.0, 0.5, 2500
"""Weight of the per-pixel L1: from start to end over so many steps; at its end where a run starts from weights."""
L1_COARSE = 1.0
ATTRIBUTE_WEIGHT, CODE_WEIGHT, DIVERSITY_WEIGHT, IDENTITY_WEIGHT = 3.0, 1.0, 1.0, 0.3
IDENTITY_RISE = 1000
"""Steps in which the identity loss rises from 0: before there are faces, an embedder sees nobody in them."""
TONE_WEIGHT = 2.0
SWAPPED = 0.75
"""Share of paintings B that have another person's attributes."""
MALE = ATTRIBUTES.index("Male")
CRITIC_FIRST, EASE, CALM = 300, 200, 0.2
"""A generator that starts from weights waits so many steps for a critic that starts from nothing, and learns at so much
of that critic's rate (two time scales: Heusel et al., NeurIPS 2017): as fast as it, it forgot how to paint (ADR 4).
Whether its critic goes on beside it or not, it begins to learn over EASE steps: Adam's first are as long as its later
ones, whatever the gradient."""
CRITIC = "critic."
"""What the critic's tensors are called in OUT/start, which another run can start from as a whole."""
DIVERSITY_MARGIN = 0.12
"""Mean difference (of a range of 2) that two codes' paintings should reach after 4x4 averaging, beyond a change of
overall colour: seeking modes (Mao et al., CVPR 2019) without that exception, the code only changed the skin tone."""
FULLY_BLANKED = 0.75
"""Share of faces shown at strength 1; the others are pixelated at a level drawn at random."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that the generator is given for B faces."""

    context: Tensor
    region: Tensor
    strength: Tensor
    attributes: Tensor
    code: Tensor
    noise: Tensor

    def twice(self, attributes: Tensor, code: Tensor, noise: Tensor) -> Inputs:
        """These contexts again, below, with other attributes, code and noise."""
        return Inputs(
            torch.cat([self.context, self.context]), torch.cat([self.region, self.region]),
            torch.cat([self.strength, self.strength]), torch.cat([self.attributes, attributes]),
            torch.cat([self.code, code]), torch.cat([self.noise, noise]),
        )  # fmt: skip


class GeneratorTask(Task):
    """Generator and critic, trained in turn on the same faces."""

    name: ClassVar[str] = "generator"
    weights: ClassVar[str] = "generator"
    batch_multiple: ClassVar[int] = 4  # two faces share a code, beside as many that lend their attributes
    max_zero_stage: ClassVar[int] = 2  # ZeRO 3 cannot differentiate twice through convolutions (R1)
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 8000, "batch": 16, "lr": 4e-4, "ema": 0.998, "px": 128, "width": 48,
    }  # fmt: skip

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        super().__init__(config, contents)
        self.shape = GeneratorConfig(px=config.px or 128, width=config.width or 48, region=config.region)
        self.painted = REGIONS[config.region]
        self.region, self.weight = self.painted.masks(self.shape.px)
        _, self.skin = FACE.masks(self.shape.px)  # where the neck tells the tone, whatever is painted
        self.inside_40 = torch.tensor([float(name in self.painted.inside) for name in ATTRIBUTES])
        self.sight = Sight()
        self.critic_first, self.goes_on = 0, False

    def networks(self) -> dict[str, nn.Module]:
        shape = DiscriminatorConfig(px=self.shape.px, code=self.shape.code, maps=self.sight.channels)
        generator, critic = self.started(Generator(self.shape)), Discriminator(shape)
        if self.config.start is not None:
            self.goes_on = self._starts_too(critic, self.config.start)
            self.critic_first = 0 if self.goes_on else CRITIC_FIRST
        return {"generator": generator, "critic": critic}

    def _starts_too(self, critic: nn.Module, start: str) -> bool:
        """Whether `start` holds a critic as well, as a run's OUT/start does; it goes on from there then."""
        found = {
            k.removeprefix(CRITIC): v.float() for k, v in weights.read(start).tensors.items() if k.startswith(CRITIC)
        }
        own = critic.state_dict()
        if found.keys() != own.keys() or any(found[k].shape != own[k].shape for k in own):
            return False
        critic.load_state_dict(found)
        return True

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.lr or 4e-4, betas=(0.0, 0.99))

    def lr(self, step: int) -> float:
        """Constant, then down to a tenth over the last fifth of the run."""
        left = 1 - step / (self.config.steps or 1)
        return (self.config.lr or 4e-4) * min(1.0, 0.1 + 0.9 * left / 0.2)

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        generator, critic = engines["generator"], engines["critic"]
        waits = step < self.critic_first
        real = shift(flip(batch.faces_B3HW), 2)
        real = real.contiguous(memory_format=torch.channels_last)
        half = len(real) // 2
        inputs = self._inputs(real[:half], batch.attributes_B40, half)
        with torch.set_grad_enabled(not waits):
            painted = generator.module(*_fields(inputs))
            target = torch.cat([real[:half], real[:half]])
            pasted = self.sight.see(self._composite(painted, target))
        with torch.no_grad():
            photos = self.sight.see(real)
        parts = self._critic_step(critic, photos, batch.attributes_B40, pasted.detach(), inputs.code, step)
        if waits:
            return parts
        judged = self._judged(critic.module, pasted)
        loss, generator_parts = self._generator_loss(judged, painted, target, inputs, step)
        by_identity, identity_parts = identity_loss(
            self.sight.vectors(pasted), self.sight.vectors(photos)[:half],
            (inputs.strength[:half] == 1).float(), inputs.attributes[:half, MALE],
        )  # fmt: skip
        learned = step - self.critic_first
        rise = 1.0 if self.goes_on else min(1.0, learned / IDENTITY_RISE)
        if self.config.start is not None:
            calm = 1.0 if self.goes_on else CALM
            generator.set_lr(calm * self.lr(step) * min(1.0, (learned + 1) / EASE))
        generator.step(loss + IDENTITY_WEIGHT * rise * by_identity)
        return parts | generator_parts | identity_parts

    def _inputs(self, faces: Tensor, attributes: Tensor, half: int) -> Inputs:
        """Contexts of `half` faces, each twice: with true attributes, and as Stage II might release them. The first
        quarter of the batch and the second are painted with the same codes."""
        a, quarter = self.inputs(faces, attributes[:half], self._random_strengths(half, faces)), half // 2
        a = dataclasses.replace(a, code=a.code[:quarter].repeat(2, 1))
        others = attributes[half : 2 * half]
        swapped = torch.where(draw.uniform(half, 1, device=faces.device) < SWAPPED, others, attributes[:half])
        # Sex follows the surroundings (obfuscate.follow), as it will where it is released.
        swapped[:, MALE] = attributes[:half, MALE]
        code = draw.normal(quarter, self.shape.code, device=faces.device).repeat(2, 1)
        return a.twice(swapped, code, draw.normal(*a.noise.shape, device=faces.device))

    def _random_strengths(self, n: int, like: Tensor) -> Tensor:
        levels = torch.tensor([s for s in STRENGTHS if 0 < s < 1], device=like.device)
        drawn = levels[draw.integers(len(levels), n, device=like.device)]
        return torch.where(draw.uniform(n, device=like.device) < FULLY_BLANKED, torch.ones_like(drawn), drawn)

    def inputs(self, faces: Tensor, attributes: Tensor, strength: Tensor) -> Inputs:
        """Blank (or pixelate) the region of faces and draw a code and noise for each."""
        context = self.painted.pixelated(faces, 0)
        for value, cells in STRENGTHS.items():
            shown = (strength == value)[:, None, None, None]
            if cells and bool(shown.any()):
                context = torch.where(shown, self.painted.pixelated(faces, cells), context)
        n, px = len(faces), faces.shape[-1]
        region = self.region.to(faces).expand(n, -1, -1, -1)
        code = draw.normal(n, self.shape.code, device=faces.device)
        noise = draw.normal(n, 1, px, px, device=faces.device)
        return Inputs(context, region, strength, attributes, code, noise)

    def _composite(self, painted: Tensor, faces: Tensor) -> Tensor:
        weight = self.weight.to(painted)
        return (painted * weight + faces * (1 - weight)).contiguous(memory_format=torch.channels_last)

    def _inside(self, logits_B1HW: Tensor) -> Tensor:
        """Logits at the places that are mostly painted (B x places): the others look the same in both."""
        _, _, rows, columns = logits_B1HW.shape
        share = F.adaptive_avg_pool2d(self.weight, (rows, columns))[0].to(logits_B1HW)
        return logits_B1HW[:, 0, share > 0.5]

    def _critic_step(
        self, critic: Engine, real: Seen, attributes: Tensor, fake: Seen, code: Tensor, step: int
    ) -> dict[str, Tensor]:
        faces, maps = real.coarse()
        on_real: Judgement = critic.module(faces, maps)
        on_fake: Judgement = critic.module(*fake.coarse())
        adversarial, parts = critic_loss(on_real.realness_B, on_fake.realness_B)
        pairs = zip(on_real.seen, on_fake.seen, strict=True)
        by_sight = torch.stack([critic_loss(self._inside(r), self._inside(f))[0] for r, f in pairs]).mean()
        by_attribute, attribute_parts = attribute_loss(on_real.attributes_B40, attributes)
        by_code, _ = code_loss(on_fake.code_BC, code)
        loss = adversarial + by_sight + by_attribute + CODE_WEIGHT * by_code
        if step % R1_EVERY == 0:
            watched = faces.detach().requires_grad_(True)
            penalty = r1_penalty(critic.module(watched, maps).realness_B, watched)
            loss = loss + R1_GAMMA / 2 * R1_EVERY * penalty
            parts["r1"] = penalty.detach()
        critic.step(loss)
        return parts | {"d_sight": by_sight.detach(), "d_accuracy": attribute_parts["accuracy"]}

    def _judged(self, critic: nn.Module, pasted: Seen) -> Judgement:
        # A critic that gathers gradients here would be silently wrong under DeepSpeed, and slow everywhere.
        critic.requires_grad_(False)
        judged: Judgement = critic(*pasted.coarse())
        critic.requires_grad_(True)
        return judged

    def _generator_loss(
        self, judged: Judgement, painted: Tensor, target: Tensor, inputs: Inputs, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        adversarial, parts = generator_loss(judged.realness_B)
        by_sight = torch.stack([generator_loss(self._inside(logits))[0] for logits in judged.seen]).mean()
        by_attribute, attribute_parts = attribute_loss(
            judged.attributes_B40, inputs.attributes, self.inside_40.to(painted.device)
        )
        by_code, code_parts = code_loss(judged.code_BC, inputs.code)
        weight, half = self.weight.to(painted), len(painted) // 2
        fine, coarse = region_l1(painted[:half], target[:half], weight, 8)
        apart = shape_distance(painted[:half], painted[half:], weight)
        tone = tone_distance(painted, target, self.skin.to(painted))
        faded = 1.0 if self.config.start else min(1.0, step / L1_FADE)
        fade = L1_START + (L1_END - L1_START) * faded
        loss = (
            adversarial + by_sight + ATTRIBUTE_WEIGHT * by_attribute + CODE_WEIGHT * by_code
            + fade * fine + L1_COARSE * fade / L1_START * coarse + TONE_WEIGHT * tone
            + DIVERSITY_WEIGHT * F.relu(DIVERSITY_MARGIN - apart)
        )  # fmt: skip
        parts |= code_parts | {
            "g_sight": by_sight.detach(), "g_attributes": by_attribute.detach(),
            "g_accuracy": attribute_parts["accuracy"], "l1": fine.detach(), "tone": tone.detach(),
            "apart": apart.detach(),
        }  # fmt: skip
        return loss, parts

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        """The critic's opinion of held-out real faces: far below training faces', it knows those by heart."""
        device = next(networks["critic"].parameters()).device
        rows = torch.arange(min(256, len(held_out))).numpy()
        batch = held_out.batch(rows, device)
        inputs = self.inputs(batch.faces_B3HW, batch.attributes_B40, torch.ones(len(rows), device=device))
        composite = self._composite(networks["generator"](*_fields(inputs)), batch.faces_B3HW)
        real, fake = (networks["critic"](*self.sight.see(x).coarse()) for x in (batch.faces_B3HW, composite))
        inside = self.inside_40.bool().to(device)
        same = ((fake.attributes_B40 > 0) == (batch.attributes_B40 > 0.5))[:, inside]
        return {
            "d_real_held_out": float(real.realness_B.mean()), "d_fake_held_out": float(fake.realness_B.mean()),
            "critic_reads_back": float(same.float().mean()),
        }  # fmt: skip

    def samples(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> Tensor | None:
        """Columns of faces; rows: photo, context, three codes, another person's attributes, strengths 0.6 and 0.2."""
        device = next(networks["generator"].parameters()).device
        batch = held_out.batch(torch.arange(0, len(held_out), max(1, len(held_out) // 12))[:12].numpy(), device)
        faces, ones = batch.faces_B3HW, torch.ones(len(batch), device=device)
        rows = [faces, self.painted.pixelated(faces, 0)]
        for attributes, strength in [
            *[(batch.attributes_B40, 1.0)] * 3, (batch.attributes_B40.roll(1, 0), 1.0),
            (batch.attributes_B40, 0.6), (batch.attributes_B40, 0.2),
        ]:  # fmt: skip
            inputs = self.inputs(faces, attributes, ones * strength)
            rows.append(self._composite(networks["generator"](*_fields(inputs)), faces))
        return torch.cat([torch.cat(list(row), 2) for row in rows], 1)

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        shape, state = self.shape.model_dump(), networks["generator"].state_dict()
        weights.write(folder, "generator", shape, state, notes)
        critic = {CRITIC + name: values for name, values in networks["critic"].state_dict().items()}
        weights.write(folder.parent / "start", "generator", shape, state | critic, notes)


def _fields(inputs: Inputs) -> tuple[Tensor, ...]:
    return (inputs.context, inputs.region, inputs.strength, inputs.attributes, inputs.code, inputs.noise)
