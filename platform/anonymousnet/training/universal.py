"""The universal adversarial perturbation: one v, ||v||_inf <= xi, that fools the targets on most faces.

Units. xi is a share of a channel's full range 0 to 1 (10/255: ten grey levels). Faces span [-1, 1], so inside this
module v is held in [-2 xi, 2 xi]. `Universal.v` is stored at unit size, in [-1, 1]: Stage IV scales it.

`gradient` and `updated` are pure, and `states` walks through the batches with any `Step`: the loop in this process
(`solve`) and the actor that farms batches out to workers (pipelines/perturbation.py) are the same algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.errors import ConfigError
from anonymousnet.training.disturbances import Disturbance, disturbed, drawn
from anonymousnet.training.targets import Target, fooled, references

Solver = Literal["sgd", "deepfool"]
CLIP = 3.0
"""A face whose margins lie below -CLIP is fooled well enough: it no longer pulls (Shafahi et al., AAAI 2020)."""
LOSS_CLIP = 9.0
"""The same for cross-entropies; their value."""
TINT_PX = 7
"""Side of the squares whose mean a tintless perturbation leaves alone, in pixels of the face."""
OVERSHOOT, DEEPFOOL_STEPS = 0.02, 10
DELTA = 0.2
"""`deepfool` is done when it fools 1 - DELTA of the faces (its paper's choice)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How v is computed. Raises ConfigError for an xi outside (0, 1), an unknown solver, or a count below 1."""

    xi: float
    solver: Solver = "sgd"
    epochs: int = 10
    batch: int = 32
    seed: int = 0
    robust: bool = False
    """Every batch goes through a random resize or a JPEG-like quantisation first, so that v survives them."""
    tintless: bool = False
    """v is grey and changes no local mean, over TINT_PX pixels: people see a tint first, then coloured lines."""

    def __post_init__(self) -> None:
        if not 0 < self.xi < 1:
            raise ConfigError(
                f"xi: expected a share of the range above 0 and below 1 such as {10 / 255:.4f}, got {self.xi}"
            )
        if self.solver not in ("sgd", "deepfool"):
            raise ConfigError(f"no solver '{self.solver}'; expected sgd or deepfool")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def bound(self) -> float:
        """The ball's radius in the faces' units, which span 2."""
        return 2 * self.xi

    def batches(self, epoch: int, faces: int) -> list[NDArray[np.int64]]:
        """Rows of every batch of an epoch, in an order drawn from (seed, epoch)."""
        order = np.random.default_rng([self.seed, epoch]).permutation(faces)
        return [order[start : start + self.batch] for start in range(0, faces, self.batch)]

    def disturbances(self, epoch: int, batches: int) -> list[Disturbance]:
        """What each batch goes through, drawn once from (seed, epoch): the same wherever the batch is computed."""
        return drawn(self.seed * 1_000_003 + epoch, batches) if self.robust else [Disturbance()] * batches


class Pending(NamedTuple):
    """An epoch under way."""

    v: Tensor
    """(3, H, W) in the faces' units: unit size would round it, and a resumed run would differ."""
    step: int
    """Batches done."""
    counts: list[int]
    """Per target: faces fooled so far."""


@dataclass(slots=True)
class Universal:
    """A perturbation and how it came about. Also the state that a later call goes on from."""

    v: Tensor
    """(3, H, W) in [-1, 1]: unit size, after the last whole epoch."""
    epochs: int = 0
    history: list[list[float]] = field(default_factory=list)
    """Per epoch and target: share of the faces that were fooled when their turn came, under the v of that moment."""
    pending: Pending | None = None


Step = Callable[[Tensor, NDArray[np.int64], Disturbance, float], tuple[Tensor, list[int]]]
"""One batch: v, its rows, its disturbance, share of the run that is left -> next v, faces fooled under v per target."""


def solve(
    faces_N3HW: Tensor,
    targets: Sequence[Target],
    plan: Plan,
    start: Universal | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda epochs: epochs,
) -> Universal:
    """Compute v on N faces in [-1, 1], in this process.

    `start`: go on from an earlier state, through the same steps as an uninterrupted run.
    """
    state = start or Universal(torch.zeros_like(faces_N3HW[0]))
    step = local_step(faces_N3HW, targets, plan)
    for _ in progress(range(state.epochs, plan.epochs)):
        if state.epochs == plan.epochs:  # fooled enough already
            break
        *_, state = states(state, plan, len(faces_N3HW), len(targets), step)
    return state


def states(state: Universal, plan: Plan, faces: int, targets: int, step: Step) -> Iterator[Universal]:
    """The states of the epoch that comes next or is under way, one per batch; the last one has no `pending`."""
    epoch, history = state.epochs, state.history
    if plan.solver == "deepfool" and history and min(history[-1]) >= 1 - DELTA:
        yield Universal(state.v, plan.epochs, history)
        return
    v, first, counts = state.pending or Pending(state.v * plan.bound, 0, [0] * targets)
    batches = plan.batches(epoch, faces)
    drawn_for = plan.disturbances(epoch, len(batches))
    for i in range(first, len(batches)):
        v, more = step(v, batches[i], drawn_for[i], 1 - epoch / plan.epochs)
        counts = [a + b for a, b in zip(counts, more, strict=True)]
        yield Universal(state.v, epoch, history, Pending(v, i + 1, counts))
    yield Universal(v / plan.bound, epoch + 1, [*history, [count / faces for count in counts]])


def local_step(faces_N3HW: Tensor, targets: Sequence[Target], plan: Plan) -> Step:
    """A step on faces that are all in this process."""
    of_all = references(faces_N3HW, targets, plan.batch)

    def step(v: Tensor, rows: NDArray[np.int64], disturbance: Disturbance, left: float) -> tuple[Tensor, list[int]]:
        chunk, of_chunk = faces_N3HW[rows], [of_target[rows] for of_target in of_all]
        if plan.solver == "deepfool":
            return deepfool(v, chunk, of_chunk, targets, plan)
        found, counts = gradient(v, chunk, of_chunk, targets, disturbance)
        return updated(v, found, left, plan), counts

    return step


def gradient(
    v: Tensor, faces: Tensor, references: Sequence[Tensor], targets: Sequence[Target], disturbance: Disturbance
) -> tuple[Tensor, list[int]]:
    """Gradient (3, H, W) of the faces' mean loss, summed over targets; and how many faces each target is fooled on."""
    free = v.clone().requires_grad_(True)
    perturbed = disturbed((faces + free).clamp(-1, 1), disturbance)
    losses, counts = [], []
    for target, reference in zip(targets, references, strict=True):
        margins = target.margins(perturbed, reference)
        losses.append(standing(margins, target.need))
        counts.append(int(fooled(margins, target.need).sum()))
    return torch.autograd.grad(torch.stack(losses).sum(), free)[0], counts


def reduced(parts: Sequence[tuple[int, Tensor, list[int]]]) -> tuple[Tensor, list[int]]:
    """The `gradient` of a whole batch from those of its parts, each with its number of faces."""
    faces = sum(n for n, _, _ in parts)
    total = torch.stack([found * (n / faces) for n, found, _ in parts]).sum(0)
    return total, [sum(counts) for counts in zip(*(counts for _, _, counts in parts), strict=True)]


def updated(v: Tensor, gradient: Tensor, left: float, plan: Plan) -> Tensor:
    """One step of sign-gradient descent; `left` of the run, 0 to 1, sets its length."""
    length = plan.bound * (0.02 + 0.18 * left)
    if plan.tintless:  # the gradient of the one number that three channels share
        gradient = gradient.sum(0, keepdim=True).expand_as(v)
    return projected(v - length * gradient.sign(), plan.bound, plan.tintless)


def deepfool(
    v: Tensor, faces: Tensor, references: Sequence[Tensor], targets: Sequence[Target], plan: Plan
) -> tuple[Tensor, list[int]]:
    """Moosavi-Dezfooli et al. 2017, Algorithm 1: for each face not yet fooled, v <- P(v + DeepFool(x + v)).

    Which faces are fooled is asked for all at once; `_deepfool` asks again, under the v of that moment.
    """
    counts = []
    for target, reference in zip(targets, references, strict=True):
        with torch.no_grad():
            done = fooled(target.margins((faces + v).clamp(-1, 1), reference), target.need)
        counts.append(int(done.sum()))
        for i in (~done).nonzero().flatten().tolist():
            change = _deepfool(faces[i : i + 1] + v, target, reference[i : i + 1])
            v = projected(v + change, plan.bound, plan.tintless)
    return v, counts


def projected(v: Tensor, bound: float, tintless: bool) -> Tensor:
    """The point of the L_inf ball nearest to v (3, H, W); its colour and its local means removed where `tintless`."""
    if tintless:
        half = TINT_PX // 2
        grey = v.mean(0, keepdim=True)
        around = F.avg_pool2d(F.pad(grey[None], (half, half, half, half), "reflect"), TINT_PX, 1)[0]
        v = (grey - around).expand_as(v)
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
