"""Task `painter`: Stage III's low-resolution painter, and its two discriminators.

Each step paints half of the batch's contexts twice. Painting A has the true attributes, landmark lines and tone and is
held near the photo (an L1 and a perceptual distance that fade: a start, not a goal). Painting B has another latent.
Attributes and lines of B are another person's wherever that person is turned alike and of the same sex: a released face
has drawn attributes and a shape drawn to fit them, so one is never lent without the other. The tone stays the photo's
own: a released tone is drawn to fit the neck.

The discriminators judge the composite: context outside, painting inside. Both regions, face and head, are drawn at
random, face by face; the mask is an input, and one set of weights paints both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from anonymousnet import draw, weights
from anonymousnet.align.region import FACE, HEAD
from anonymousnet.config import TrainConfig
from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.device import to_device
from anonymousnet.errors import DataError
from anonymousnet.nets.lite0 import Lite0, load_lite0
from anonymousnet.nets.painter import Painter, PainterConfig, landmark_lines
from anonymousnet.nets.painter_discriminator import (
    SPREAD,
    FeatureDiscriminator,
    PixelDiscriminator,
    PixelDiscriminatorConfig,
    Verdict,
)
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine
from anonymousnet.training.enlarged import disturbance, enlarged
from anonymousnet.training.labels import NETWORK_LANDMARKS
from anonymousnet.training.losses import (
    attribute_loss,
    code_loss,
    critic_loss,
    generator_loss,
    masked_hinge_loss,
    mean_inside,
    perceptual_distance,
    r1_penalty,
    region_l1,
    shape_distance,
    tone_distance,
)  # fmt: skip
from anonymousnet.training.placement import Faces, moved_faces, moved_points, moves, no_moves, often, turn
from anonymousnet.training.task import Task

R1_EVERY, R1_GAMMA = 16, 1.0
L1 = ((0, 3000, 6000), (4.0, 0.5, 0.0))
"""Steps, and the weight of the per-pixel L1 of painting A at each; straight lines between."""
PERCEPTUAL = ((0, 3000, 12000), (0.5, 0.5, 0.0))
"""The same of the perceptual distance."""
PERCEIVED = (2, 3)
"""Maps that it compares: strides 8 and 16, shapes rather than grain (LaMa: Suvorov et al., WACV 2022)."""
ATTRIBUTE_WEIGHT, LATENT_WEIGHT, TONE_WEIGHT, FEATURE_WEIGHT = 3.0, 1.0, 2.0, 0.7
DIVERSITY_MARGIN = 0.06
"""Mean difference (of a range of 2) that two latents' paintings should reach after 4x4 averaging, beyond a change of
overall colour (mode seeking: Mao et al., CVPR 2019)."""
FEATURE_RATE = 0.5
"""Learning rate of the discriminator on feature maps, as a share of the others'."""
ALIKE = 0.25
"""Two faces may lend each other their shape where their turns differ by less."""
MALE = INDEX["Male"]


class PainterTask(Task):
    """Painter, discriminator on pixels and discriminator on feature maps, trained in turn on the same faces."""

    name: ClassVar[str] = "painter"
    weights: ClassVar[str] = "painter"
    batch_multiple: ClassVar[int] = 2  # one half lends attributes and shape to the other
    max_zero_stage: ClassVar[int] = 2  # ZeRO 3 cannot differentiate twice through convolutions (R1)
    px_multiple: ClassVar[int] = 64
    labels: ClassVar[str | None] = NETWORK_LANDMARKS
    slack: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 125_000, "batch": 16, "lr": 4e-4, "ema": 0.999, "px": 128, "width": 48,
    }  # fmt: skip
    """`px` is the side of the photos' crops: it paints at half of it, so that crops keep their grain when moved."""

    def __init__(self, config: TrainConfig, contents: Contents, lite0: Lite0 | None = None) -> None:
        """`lite0`: feature maps for a test; otherwise the package's. Raises WeightsError when it is not installed."""
        super().__init__(config, contents)
        if not contents.landmarks:
            raise DataError(
                "expected 68 landmarks for every face, got none; make them with "
                "`python -m anonymousnet.training.network_labels CELEBA`, or use --synthetic"
            )
        self.shape = PainterConfig(px=(config.px or 128) // 2, width=config.width or 48)
        self.px = self.shape.px
        masks = [region.masks(self.px) for region in (FACE, HEAD)]
        self.regions_2, self.weights_2 = torch.stack([m[0] for m in masks]), torch.stack([m[1] for m in masks])
        self.inside_240 = torch.tensor([[float(name in r.inside) for name in ATTRIBUTES] for r in (FACE, HEAD)])
        self.shown_px = self.px * 7 // 4
        self.lite0 = lite0 or load_lite0()

    def networks(self) -> dict[str, nn.Module]:
        shape = PixelDiscriminatorConfig(px=self.px, width=self.shape.width, latent=self.shape.latent)
        return {
            "painter": self.started(Painter(self.shape)),
            "pixel_discriminator": PixelDiscriminator(shape),
            "feature_discriminator": FeatureDiscriminator(self.lite0.channels),
        }

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.config.lr or 4e-4, betas=(0.0, 0.99))

    def lr(self, step: int) -> float:
        """Constant, then down to a tenth over the last fifth of the run."""
        left = 1 - step / (self.config.steps or 1)
        return (self.config.lr or 4e-4) * min(1.0, 0.1 + 0.9 * left / 0.2)

    def epoch(self, data: FaceTable) -> NDArray[np.int64]:
        """Rare faces several times."""
        return np.repeat(np.arange(len(data)), often(data))

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        painter, pixels, features = (engines[name] for name in self.networks_in_order)
        features.set_lr(FEATURE_RATE * self.lr(step))
        real, told = self._drawn(batch)
        latent = draw.normal(len(told.images), self.shape.latent, device=told.images.device)
        painted = self._painted(painter.module, told, latent)
        fake = self._composite(painted, told)
        parts = self._pixel_step(pixels, real, told, fake.detach(), latent, step)
        # Painting A and its photo are disturbed alike: their maps are compared as well.
        disturb = disturbance(len(real.images), self.shown_px, real.images.device)
        maps = self._maps(disturb(enlarged(fake, told.kinds, self.shown_px)))
        with torch.no_grad():
            real_maps = self._maps(disturb(enlarged(real.images, real.kinds, self.shown_px)))
        mixing: FeatureDiscriminator = features.module  # type: ignore[assignment]
        mixed = mixing.mix(maps)
        parts |= self._feature_step(features, mixing.mix(real_maps), [m.detach() for m in mixed], real, told)
        loss, painter_parts = self._painter_loss(
            _frozen(pixels.module, *_seen(told, fake)), painted, told, latent, step
        )
        by_feature = self._feature_loss(_frozen(features.module, mixed), told)
        half = len(real.images) // 2
        near = [(maps[i][:half], real_maps[i][:half], SPREAD[i]) for i in PERCEIVED]
        alike = perceptual_distance(*zip(*near, strict=True))
        painter.step(loss + FEATURE_WEIGHT * by_feature + float(np.interp(step, *PERCEPTUAL)) * alike)
        return parts | painter_parts | {"g_feature": by_feature.detach(), "perceptual": alike.detach()}

    networks_in_order: ClassVar[tuple[str, ...]] = ("painter", "pixel_discriminator", "feature_discriminator")

    def _drawn(self, batch: Batch) -> tuple[Faces, Faces]:
        """(the photos of a batch, moved at random; what its first half is painted from, A above B)."""
        n, half = len(batch), len(batch) // 2
        matrices, mirrored = moves(n)
        kinds = draw.integers(len(self.regions_2), n, device=batch.faces_B3HW.device)
        faces = self._faces(batch, kinds, matrices, mirrored)
        points, size = batch.landmarks_B682, _size(batch.faces_B3HW)
        assert points is not None
        lent = (turn(points[half:]) - turn(points[:half])).abs() < ALIKE
        lent &= batch.attributes_B40[half:, MALE] == batch.attributes_B40[:half, MALE]
        shapes = torch.where(lent[:, None, None], points[half:], points[:half])
        shapes = moved_points(shapes, size, matrices[:half], mirrored[:half], self.px)
        attributes = torch.where(lent[:, None], batch.attributes_B40[half:], batch.attributes_B40[:half])
        return faces, faces.first(half).twice(landmark_lines(shapes, self.px), attributes)

    def _faces(self, batch: Batch, kinds: Tensor, matrices: Tensor, mirrored: Tensor) -> Faces:
        assert batch.landmarks_B682 is not None
        size = _size(batch.faces_B3HW)
        images = moved_faces(batch.faces_B3HW, matrices, mirrored, self.px)
        points = moved_points(batch.landmarks_B682, size, matrices, mirrored, self.px)
        region, weight = self.regions_2.to(images)[kinds], self.weights_2.to(images)[kinds]
        skin = self.regions_2[0].to(images)
        tone = (images * skin).sum((2, 3)) / skin.sum((1, 2))
        return Faces(images, kinds, region, weight, landmark_lines(points, self.px), tone, batch.attributes_B40)

    def _painted(self, painter: nn.Module, told: Faces, latent: Tensor) -> Tensor:
        noise = draw.normal(len(latent), 1, self.px, self.px, device=latent.device)
        context = told.images * (1 - told.region)
        painted: Tensor = painter(context, told.region, told.lines, told.tone, told.attributes, latent, noise)
        return painted

    def _composite(self, painted: Tensor, told: Faces) -> Tensor:
        pasted = painted * told.weight + told.images * (1 - told.weight)
        return pasted.contiguous(memory_format=torch.channels_last)

    def _maps(self, shown: Tensor) -> list[Tensor]:
        maps: list[Tensor] = to_device(self.lite0, shown.device)(shown)
        return maps

    def _painted_places(self, kinds: Tensor, like: Tensor) -> Tensor:
        """Which places of a map of logits see paint, Bhw."""
        shown = enlarged(self.weights_2.to(like), torch.arange(len(self.weights_2), device=like.device), self.shown_px)
        return (F.adaptive_max_pool2d(shown, like.shape[-2:])[:, 0] > 0.5).float()[kinds]

    def _pixel_step(
        self, engine: Engine, real: Faces, told: Faces, fake: Tensor, latent: Tensor, step: int
    ) -> dict[str, Tensor]:
        both = [torch.cat(pair) for pair in zip(_seen(real, real.images), _seen(told, fake), strict=True)]
        on_real, on_fake = _halves(engine.module(*both))
        adversarial, parts = critic_loss(on_real.realness_B, on_fake.realness_B)
        by_attribute, attribute_parts = attribute_loss(on_real.attributes_B40, real.attributes)
        by_latent, _ = code_loss(on_fake.latent_BC, latent)
        loss = adversarial + by_attribute + by_latent
        if step % R1_EVERY == 0:
            watched = real.images.detach().requires_grad_(True)
            scores = engine.module(*_seen(real, watched)).realness_B
            loss = loss + R1_GAMMA / 2 * R1_EVERY * r1_penalty(scores, watched)
        engine.step(loss)
        return parts | {"d_accuracy": attribute_parts["accuracy"]}

    def _feature_step(
        self, engine: Engine, real_mixed: list[Tensor], fake_mixed: list[Tensor], real: Faces, told: Faces
    ) -> dict[str, Tensor]:
        losses, parts = [], []
        both = [torch.cat(pair) for pair in zip(real_mixed, fake_mixed, strict=True)]
        for on_both in engine.module(both):
            on_real, on_fake = on_both.chunk(2)
            places = self._painted_places(real.kinds, on_real), self._painted_places(told.kinds, on_fake)
            loss, scores = masked_hinge_loss(on_real[:, 0], on_fake[:, 0], *places)
            losses.append(loss)
            parts.append(scores)
        loss = torch.stack(losses).mean()
        engine.step(loss)
        means = {f"d_feature_{k}": torch.stack([scores[k] for scores in parts]).mean() for k in ("real", "fake")}
        return {"d_feature": loss.detach()} | means

    def _feature_loss(self, logits: list[Tensor], told: Faces) -> Tensor:
        scores = [mean_inside(x[:, 0], self._painted_places(told.kinds, x)).mean() for x in logits]
        return -torch.stack(scores).mean()

    def _painter_loss(
        self, verdict: Verdict, painted: Tensor, told: Faces, latent: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        half = len(painted) // 2
        adversarial, parts = generator_loss(verdict.realness_B)
        inside = self.inside_240.to(painted)[told.kinds]
        by_attribute, attribute_parts = attribute_loss(verdict.attributes_B40, told.attributes, inside)
        by_latent, latent_parts = code_loss(verdict.latent_BC, latent)
        target, weight = told.images[:half], told.weight[:half]
        fine, coarse = region_l1(painted[:half], target, weight, 8)
        apart = shape_distance(painted[:half], painted[half:], weight)
        tone = tone_distance(painted, told.images, told.weight)
        l1 = float(np.interp(step, *L1))
        loss = (
            adversarial + ATTRIBUTE_WEIGHT * by_attribute + LATENT_WEIGHT * by_latent + l1 * (fine + coarse / 4)
            + TONE_WEIGHT * tone + F.relu(DIVERSITY_MARGIN - apart)
        )  # fmt: skip
        parts |= {
            "g_accuracy": attribute_parts["accuracy"], "latent_cosine": latent_parts["code_cosine"],
            "l1": fine.detach(), "tone": tone.detach(), "apart": apart.detach(),
        }  # fmt: skip
        return loss, parts

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        """Opinions of held-out faces, half of them with the region head.

        Real ones far below training faces' scores: the discriminator knows those by heart.
        """
        device = next(networks["painter"].parameters()).device
        batch = held_out.batch(np.arange(min(256, len(held_out))), device)
        faces = self._faces(batch, torch.arange(len(batch), device=device) % 2, *no_moves(len(batch)))
        paintings = [self._painted(networks["painter"], faces, self._latent(faces)) for _ in range(2)]
        fake = self._composite(paintings[0], faces)
        pixels, features = networks["pixel_discriminator"], networks["feature_discriminator"]
        on_real, on_fake = (pixels(*_seen(faces, x)) for x in (faces.images, fake))
        mixed = [features.mix(self._maps(enlarged(x, faces.kinds, self.shown_px))) for x in (faces.images, fake)]  # type: ignore[operator]
        inside = self.inside_240.to(device)[faces.kinds].bool()
        same = (on_fake.attributes_B40 > 0) == (faces.attributes > 0.5)
        return {
            "d_real_held_out": float(on_real.realness_B.mean()), "d_fake_held_out": float(on_fake.realness_B.mean()),
            "feature_real_held_out": -float(self._feature_loss(features(mixed[0]), faces)),
            "feature_fake_held_out": -float(self._feature_loss(features(mixed[1]), faces)),
            "reads_back": float(same[inside].float().mean()),
            "tone": float(tone_distance(fake, faces.images, faces.weight)),
            "apart": float(shape_distance(paintings[0], paintings[1], faces.weight)),
        }  # fmt: skip

    def _latent(self, faces: Faces) -> Tensor:
        return draw.normal(len(faces.images), self.shape.latent, device=faces.images.device)

    def samples(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> Tensor | None:
        """Columns of faces. Rows: photo; then for each region the context, painting A, painting A of another latent,
        and with the next face's shape and attributes."""
        device = next(networks["painter"].parameters()).device
        batch = held_out.batch(np.arange(0, len(held_out), max(1, len(held_out) // 12))[:12], device)
        next_one = batch.landmarks_B682.roll(1, 0) if batch.landmarks_B682 is not None else None
        others = dataclasses.replace(batch, landmarks_B682=next_one, attributes_B40=batch.attributes_B40.roll(1, 0))
        rows = []
        for kind in range(len(self.regions_2)):
            kinds = torch.full((len(batch),), kind, device=device)
            own, lent = (self._faces(b, kinds, *no_moves(len(b))) for b in (batch, others))
            rows += [own.images] if kind == 0 else []
            rows.append(own.images * (1 - own.region))
            for told in (own, own, dataclasses.replace(own, lines=lent.lines, attributes=lent.attributes)):
                rows.append(self._composite(self._painted(networks["painter"], told, self._latent(told)), told))
        return torch.cat([torch.cat(list(row), 2) for row in rows], 1)

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        weights.write(folder, "painter", self.shape.model_dump(), networks["painter"].state_dict(), notes)


def _frozen(discriminator: nn.Module, *inputs: Any) -> Any:
    """Its verdict, of which it learns nothing: gathering gradients here would be silently wrong under DeepSpeed."""
    discriminator.requires_grad_(False)
    verdict = discriminator(*inputs)
    discriminator.requires_grad_(True)
    return verdict


def _seen(faces: Faces, images: Tensor) -> tuple[Tensor, ...]:
    """What the discriminator on pixels is given of images that were painted into these faces."""
    return images, faces.region, faces.lines, faces.tone


def _halves(verdict: Verdict) -> tuple[Verdict, Verdict]:
    parts = [getattr(verdict, field.name).chunk(2) for field in dataclasses.fields(verdict)]
    return Verdict(*(part[0] for part in parts)), Verdict(*(part[1] for part in parts))


def _size(faces: Tensor) -> tuple[int, int]:
    return faces.shape[-2], faces.shape[-1]
