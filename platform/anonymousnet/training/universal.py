"""The universal adversarial perturbation: one v, ||v||_inf <= xi, that fools the targets on most faces.

Units. xi is a share of a channel's full range 0 to 1 (10/255: ten grey levels). Faces span [-1, 1], so inside this
module v is held in [-2 xi, 2 xi]. `Universal.v` is stored at unit size, in [-1, 1]: Stage IV scales it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet.errors import ConfigError
from anonymousnet.training.targets import Target, fooled, fooling_rates

Solver = Literal["sgd", "deepfool"]
CLIP = 3.0
"""A face whose margins lie below -CLIP is fooled well enough: it no longer pulls (Shafahi et al., AAAI 2020)."""
LOSS_CLIP = 9.0
"""The same for cross-entropies; their value."""
TINT_PX = 9
"""Side of the squares whose mean colour a tintless perturbation leaves alone, in pixels of the face."""
OVERSHOOT, DEEPFOOL_STEPS = 0.02, 10
DELTA = 0.2
"""`deepfool` is done when it fools 1 - DELTA of the faces (its paper's choice)."""


@dataclass(slots=True)
class Universal:
    """A perturbation and how it came about. Also the state that a later call goes on from."""

    v: Tensor
    """(3, H, W) in [-1, 1]: unit size."""
    epochs: int = 0
    history: list[list[float]] = field(default_factory=list)
    """Per epoch and target: share of the faces that were fooled when their turn came, under the v of that moment."""


def solve(
    faces_N3HW: Tensor,
    targets: Sequence[Target],
    xi: float,
    solver: Solver = "sgd",
    epochs: int = 10,
    batch: int = 32,
    seed: int = 0,
    robust: bool = False,
    tintless: bool = False,
    start: Universal | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda epochs: epochs,
) -> Universal:
    """Compute v on N faces in [-1, 1].

    `robust`: every batch goes through a random resize or a JPEG-like quantisation first, so that v survives them.
    `tintless`: v changes no local mean colour, over TINT_PX pixels: a tint is what people see first.
    `start`: go on from an earlier state, through the same steps as an uninterrupted run.
    Raises ConfigError for an xi outside (0, 1) or an unknown solver.
    """
    if not 0 < xi < 1:
        raise ConfigError(f"xi: expected a share of the range above 0 and below 1 such as {10 / 255:.4f}, got {xi}")
    if solver not in ("sgd", "deepfool"):
        raise ConfigError(f"no solver '{solver}'; expected sgd or deepfool")
    state = start or Universal(torch.zeros_like(faces_N3HW[0]))
    v, references = state.v * 2 * xi, [_references(target, faces_N3HW, batch) for target in targets]
    for epoch in progress(range(state.epochs, epochs)):
        if solver == "deepfool" and state.history and min(state.history[-1]) >= 1 - DELTA:
            return Universal(state.v, epochs, state.history)
        torch.manual_seed(seed * 1_000_003 + epoch)
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(faces_N3HW)))
        passed = _Pass(faces_N3HW[order], [r[order] for r in references], targets, batch, 2 * xi, tintless)
        v = passed.sgd(v, 1 - epoch / epochs, robust) if solver == "sgd" else passed.deepfool(v)
        state = Universal(v / (2 * xi), epoch + 1, [*state.history, passed.rates()])
    return state


def _references(target: Target, faces: Tensor, batch: int) -> Tensor:
    """What the target says of all clean faces."""
    with torch.no_grad():
        return torch.cat([target.reference(chunk) for chunk in torch.split(faces, batch)])


class _Pass:
    """One pass over the faces, in a drawn order. `bound` is 2 xi: the ball's radius in the faces' units."""

    def __init__(
        self, faces: Tensor, references: Sequence[Tensor], targets: Sequence[Target], batch: int, bound: float,
        tintless: bool,
    ) -> None:  # fmt: skip
        self.targets, self.bound, self.tintless, self.faces = targets, bound, tintless, len(faces)
        self.chunks = list(zip(torch.split(faces, batch), *[torch.split(r, batch) for r in references], strict=True))
        self.counts = [0] * len(targets)

    def rates(self) -> list[float]:
        """Share of the faces that each target was fooled on when their turn came."""
        return [count / self.faces for count in self.counts]

    def sgd(self, v: Tensor, left: float, robust: bool) -> Tensor:
        """Batched sign-gradient descent on the clipped margins; `left` of the run, 0 to 1, sets the step."""
        for chunk, *references in self.chunks:
            free = v.clone().requires_grad_(True)
            perturbed = (chunk + free).clamp(-1, 1)
            if robust:
                perturbed = disturbed(perturbed)
            losses = []
            for i, (target, reference) in enumerate(zip(self.targets, references, strict=True)):
                margins = target.margins(perturbed, reference)
                losses.append(standing(margins, target.need))
                self.counts[i] += int(fooled(margins, target.need).sum())
            (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), free)
            step = self.bound * (0.02 + 0.18 * left)
            v = projected(v - step * gradient.sign(), self.bound, self.tintless)
        return v

    def deepfool(self, v: Tensor) -> Tensor:
        """Moosavi-Dezfooli et al. 2017, Algorithm 1: for each face not yet fooled, v <- P(v + DeepFool(x + v)).

        Which faces are fooled is asked for a chunk at a time; `_deepfool` asks again, under the v of that moment.
        """
        for chunk, *references in self.chunks:
            for j, (target, reference) in enumerate(zip(self.targets, references, strict=True)):
                with torch.no_grad():
                    done = fooled(target.margins((chunk + v).clamp(-1, 1), reference), target.need)
                self.counts[j] += int(done.sum())
                for i in (~done).nonzero().flatten().tolist():
                    change = _deepfool(chunk[i : i + 1] + v, target, reference[i : i + 1])
                    v = projected(v + change, self.bound, self.tintless)
        return v


def projected(v: Tensor, bound: float, tintless: bool) -> Tensor:
    """The point of the L_inf ball nearest to v (3, H, W); its local mean colours removed where `tintless`."""
    if tintless:
        half = TINT_PX // 2
        v = v - F.avg_pool2d(F.pad(v[None], (half, half, half, half), "reflect"), TINT_PX, 1)[0]
    return v.clamp(-bound, bound)


def standing(margins_BM: Tensor, need: float) -> Tensor:
    """How far a batch is from being fooled, to be minimised.

    Where any one of several answers will do, less the clipped cross-entropy of the clean answer (Shafahi et al.): it
    spends little on faces out of reach. On two small ResNets the nearest margin alone fooled 0.00 to 0.04 fewer faces.
    """
    if need or margins_BM.shape[1] == 1:
        return margins_BM.clamp(min=-CLIP).mean()
    return -F.pad(-margins_BM, (1, 0)).logsumexp(1).clamp(max=LOSS_CLIP).mean()


def _deepfool(face: Tensor, target: Target, reference: Tensor) -> Tensor:
    """Smallest change (3, H, W) in the L_inf sense that overturns the nearest answer (DeepFool, CVPR 2016, eq. 10)."""
    total = torch.zeros_like(face)
    for _ in range(DEEPFOOL_STEPS):
        free = (face + (1 + OVERSHOOT) * total).requires_grad_(True)
        margins = target.margins(free, reference)[0]
        if bool(fooled(margins[None], target.need)):
            break
        left = torch.nonzero(margins >= 0).flatten()
        nearest = left[margins[left].argsort()[:5]]
        each = torch.eye(len(margins), device=face.device)[nearest]
        # All gradients in one batched backward pass: a third less time than one by one.
        gradients = torch.autograd.grad(margins, free, each, is_grads_batched=True)[0]
        # Distance of each answer's boundary in L_inf: margin over the L1 norm of its gradient.
        distances = margins[nearest].detach() / (gradients.abs().flatten(1).sum(1) + 1e-12)
        best = int(distances.argmin())
        total = total - (distances[best] + 1e-4) * gradients[best].sign()
    return (1 + OVERSHOOT) * total[0]


def disturbed(faces: Tensor) -> Tensor:
    """Faces as they come back from the world: whole, resized, or quantised like a JPEG; drawn per batch."""
    kind = int(torch.randint(3, ()))
    if kind == 1:
        side = int(faces.shape[-1] * (0.5 + 0.5 * float(torch.rand(()))))
        small = F.interpolate(faces, size=(side, side), mode="bilinear", antialias=True)
        return F.interpolate(small, size=faces.shape[-2:], mode="bilinear")
    if kind == 2:
        return _quantised(faces, 0.04 + 0.10 * float(torch.rand(())))
    return faces


def _quantised(faces: Tensor, step: float) -> Tensor:
    """8x8 DCT coefficients rounded as JPEG does, coarser at high frequencies; gradients pass straight through.

    `step` is the mean colour's: about 0.06 for quality 75, 0.13 for quality 50.
    """
    n = torch.arange(8, dtype=faces.dtype, device=faces.device)
    basis = torch.cos(torch.pi * (n[None] + 0.5) * n[:, None] / 8) * 0.5
    basis[0] *= 0.5**0.5
    blocks = faces.unfold(2, 8, 8).unfold(3, 8, 8)
    coefficients = basis @ blocks @ basis.T
    steps = step * (1 + (n[:, None] + n[None]) / 2)
    rounded = coefficients + ((coefficients / steps).round() * steps - coefficients).detach()
    back = basis.T @ rounded @ basis
    return back.permute(0, 1, 2, 4, 3, 5).reshape_as(faces)


def noise_like(v: Tensor, seed: int = 0) -> Tensor:
    """Random signs of v's size: the baseline that every fooling rate stands beside."""
    signs = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, tuple(v.shape))).to(v) * 2 - 1
    return signs * v.abs().max()


def fooling_curve(
    unit_v: Tensor, faces: Tensor, targets: Sequence[Target], epsilons: Sequence[float]
) -> list[dict[str, list[float] | float]]:
    """For each epsilon: the fooling rates of v scaled to it, and of random signs of the same size."""
    rows: list[dict[str, list[float] | float]] = []
    for epsilon in epsilons:
        v = unit_v * 2 * epsilon
        rows.append(
            {
                "epsilon": epsilon,
                "fooled": fooling_rates(v, faces, targets),
                "noise": fooling_rates(noise_like(v), faces, targets),
            }
        )
    return rows
