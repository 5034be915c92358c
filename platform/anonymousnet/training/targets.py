"""What a universal perturbation is made to fool. A target answers with margins: positive while it is not fooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]


class Target(Protocol):
    """A network to be fooled. Faces are (B, 3, H, W) in [-1, 1]."""

    need: float
    """Share of the margins that must be negative for a face to count as fooled (0: any one)."""

    def reference(self, faces: Tensor) -> Tensor:
        """What the network says of the clean faces, (B, ...); computed once."""

    def margins(self, faces: Tensor, reference: Tensor) -> Tensor:
        """(B, M), in units of the network's own answer: how far each of its M answers is from being overturned."""


def fooled(margins_BM: Tensor, need: float) -> Tensor:
    """Which faces count as fooled: bool (B,)."""
    return (margins_BM < 0).float().mean(1) > need if need else (margins_BM < 0).any(1)


class ClassTarget:
    """A softmax classifier: fooled when its first choice changes. M = the `top` runners-up."""

    def __init__(self, net: Network, top: int = 5) -> None:
        self.net, self.need, self.top = net, 0.0, top

    def reference(self, faces: Tensor) -> Tensor:
        return self.net(faces).argsort(1, descending=True)[:, : self.top + 1]

    def margins(self, faces: Tensor, reference: Tensor) -> Tensor:
        logits = self.net(faces).float()
        first = logits.gather(1, reference[:, :1])
        others = logits.scatter(1, reference[:, :1], -torch.inf).topk(self.top, 1).values
        return first - others


class AttributeTarget:
    """The attribute classifier: fooled when more than `need` of its 40 answers are overturned."""

    def __init__(self, net: Network, px: int, need: float = 0.1) -> None:
        self.net, self.px, self.need = net, px, need

    def reference(self, faces: Tensor) -> Tensor:
        return self.net(sized(faces, self.px)).float().sign()

    def margins(self, faces: Tensor, reference: Tensor) -> Tensor:
        return self.net(sized(faces, self.px)).float() * reference


class EmbedderTarget:
    """A face recogniser: fooled when the cosine to the clean face falls below `threshold`. M = 1."""

    def __init__(self, net: Network, px: int, threshold: float) -> None:
        self.net, self.px, self.threshold, self.need = net, px, threshold, 0.0

    def reference(self, faces: Tensor) -> Tensor:
        return self.net(sized(faces, self.px))

    def margins(self, faces: Tensor, reference: Tensor) -> Tensor:
        vectors = self.net(sized(faces, self.px))
        # Ten times the cosine is about the scale of a logit, so that targets weigh alike in an ensemble.
        return 10 * ((vectors * reference).sum(1, keepdim=True) - self.threshold)


class DetectorTarget:
    """A face detector: fooled when its highest heat over the face falls below its threshold.

    M = the `top` highest, so that the next to step in for the highest are pushed down with it.
    `heat`: faces in [-1, 1] at px -> logits (B, 1, h, w).
    """

    def __init__(self, heat: Network, px: int, threshold: float, top: int = 5) -> None:
        self.heat, self.px, self.top = heat, px, top
        self.limit = math.log(threshold / (1 - threshold))
        self.need = 1 - 1 / (2 * top)  # all of them

    def reference(self, faces: Tensor) -> Tensor:
        return faces.new_zeros(len(faces), 0)

    def margins(self, faces: Tensor, reference: Tensor) -> Tensor:
        heat = self.heat(sized(faces, self.px)).float()
        return heat.flatten(1).topk(self.top, 1).values - self.limit


def sized(faces: Tensor, px: int) -> Tensor:
    """Faces at the network's own size."""
    if faces.shape[-1] == px:
        return faces
    return F.interpolate(faces, size=(px, px), mode="bilinear", antialias=True, align_corners=False)


def references(faces: Tensor, targets: Sequence[Target], batch: int = 64) -> list[Tensor]:
    """What each target says of the clean faces (N, 3, H, W): (N, ...) each."""
    with torch.no_grad():
        parts = [[target.reference(chunk) for target in targets] for chunk in torch.split(faces, batch)]
    return [torch.cat(of_target) for of_target in zip(*parts, strict=True)]


def fooling_rates(
    v: Tensor,
    faces: Tensor,
    targets: Sequence[Target],
    batch: int = 64,
    world: Callable[[Tensor], Tensor] = lambda faces: faces,
    clean: Sequence[Tensor] | None = None,
) -> list[float]:
    """Share of faces (N, 3, H, W) that each target is fooled on once v (in faces' units, span 2) is added.

    `world`: what then happens to the perturbed faces before the target sees them. `clean`: their `references`, for
    callers that ask more than once.
    """
    clean = references(faces, targets, batch) if clean is None else clean
    counts = [0] * len(targets)
    with torch.no_grad():
        for start in range(0, len(faces), batch):
            rows = slice(start, start + batch)
            perturbed = world((faces[rows] + v).clamp(-1, 1))
            for i, (target, reference) in enumerate(zip(targets, clean, strict=True)):
                counts[i] += int(fooled(target.margins(perturbed, reference[rows]), target.need).sum())
    return [count / len(faces) for count in counts]
