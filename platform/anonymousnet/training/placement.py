"""Faces as a painter's training sees them: mirrored, moved as alignment will move them, rare ones more often."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet import draw
from anonymousnet.align.place import RATIO, STEP, TURN
from anonymousnet.data.attributes import INDEX
from anonymousnet.metrics.skin import PATCHES
from anonymousnet.training.data import FaceTable
from anonymousnet.training.landmarks import MIRRORED

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MOST = 4
"""How often an epoch draws the rarest faces."""


@dataclass(frozen=True, slots=True)
class Faces:
    """B faces as the networks see them, and what the painter may be told of each."""

    images: Tensor
    """B3HW in [-1, 1]"""
    kinds: Tensor
    """B, 0 face or 1 head"""
    region: Tensor
    """B1HW in {0, 1}"""
    weight: Tensor
    """B1HW in [0, 1]"""
    lines: Tensor
    """B4HW in [0, 1]"""
    tone: Tensor
    """B3 in [-1, 1]: the mean colour of the region face, whichever is painted"""
    attributes: Tensor
    """B40 in {0, 1}"""

    def twice(self, lines: Tensor, attributes: Tensor) -> Faces:
        """These faces, and below them the same with other lines and attributes."""
        return Faces(
            torch.cat([self.images, self.images]), torch.cat([self.kinds, self.kinds]),
            torch.cat([self.region, self.region]), torch.cat([self.weight, self.weight]),
            torch.cat([self.lines, lines]), torch.cat([self.tone, self.tone]),
            torch.cat([self.attributes, attributes]),
        )  # fmt: skip

    def first(self, n: int) -> Faces:
        """The first n."""
        return Faces(*(getattr(self, field.name)[:n] for field in dataclasses.fields(self)))


def moves(n: int) -> tuple[Tensor, Tensor]:
    """(similarities (n, 2, 3) as `affine_grid` takes them; whether to mirror (n,)).

    Distributed as alignment's places are about faces (`align.place`): a face lies anywhere between two grid points, and
    either is drawn. So each axis differs by the difference of two uniforms, in steps of the grid.
    """
    size, angle, right, down = (draw.uniform(n, 4) - draw.uniform(n, 4)).unbind(1)
    zoom, angle = RATIO**size, angle * TURN
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    right, down = 2 * STEP * zoom * right, 2 * STEP * zoom * down  # `affine_grid` counts half sides
    return torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1), draw.uniform(n) < 0.5


def no_moves(n: int) -> tuple[Tensor, Tensor]:
    """The same, of faces that stay as they are."""
    return torch.eye(2, 3).expand(n, -1, -1), torch.zeros(n, dtype=torch.bool)


def moved_faces(faces_B3HW: Tensor, matrices_B23: Tensor, mirrored_B: Tensor, px: int) -> Tensor:
    """(B, 3, px, px): the centre crops of faces (W wide, H >= W high), mirrored, then moved.

    Edges repeat beyond the face. Sampled at the faces' own resolution and averaged down: photos keep their grain.
    """
    high, wide = faces_B3HW.shape[-2:]
    device = faces_B3HW.device
    fine = max(1, wide // px)
    grid = F.affine_grid(matrices_B23.to(device), [len(faces_B3HW), 3, px * fine, px * fine], False)
    side = torch.where(mirrored_B.to(device), -1.0, 1.0)[:, None, None]
    grid = torch.stack([grid[..., 0] * side, grid[..., 1] * (wide / high)], 3)
    sampled = F.grid_sample(faces_B3HW, grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, fine).contiguous(memory_format=torch.channels_last)


def moved_points(
    points_B682: Tensor, size: tuple[int, int], matrices_B23: Tensor, mirrored_B: Tensor, px: int
) -> Tensor:
    """68 landmarks of the same faces (of `size` H, W, in their pixels) in pixels of `moved_faces`' crops."""
    high, wide = size
    device = points_B682.device
    unit = (points_B682 - torch.tensor([wide / 2, high / 2], device=device)) * (2 / wide)
    flipped = unit[:, list(MIRRORED)] * torch.tensor([-1.0, 1.0], device=device)
    unit = torch.where(mirrored_B.to(device)[:, None, None], flipped, unit)
    # The matrices say where each pixel comes from; points go the other way.
    matrices = matrices_B23.to(device).float()
    back = torch.linalg.inv(matrices[:, :, :2])
    moved: Tensor = ((unit - matrices[:, None, :, 2]) @ back.transpose(1, 2) + 1) * (px / 2)
    return moved


def turn(points_B682: Tensor) -> Tensor:
    """How far each face is turned, B: the nose's tip between the outer corners of the eyes, -1 at the left one, 1 at
    the right one. 0 is the front; beyond 0.5 is a profile."""
    left, right, nose = (points_B682[:, i, 0] for i in (36, 45, 30))
    return (2 * nose - left - right) / (right - left).clamp(min=1e-3)


def often(data: FaceTable) -> NDArray[np.int64]:
    """How often an epoch draws each face, N in 1 to MOST: once, and once more for each thing that is rare about it.

    Cheeks among the darkest quarter (twice more among the darkest tenth); the most turned tenth; old; glasses; hat.
    """
    counts = np.ones(len(data), np.int64)
    light = _cheeks(data.faces_N3HW)
    for share in (0.25, 0.1):
        counts += light < np.quantile(light, share)
    if data.landmarks_N682 is not None:
        turned = turn(torch.from_numpy(data.landmarks_N682)).abs().numpy()
        counts += turned > np.quantile(turned, 0.9)
    has = {name: data.attributes_N40[:, INDEX[name]] for name in ("Young", "Gray_Hair", "Eyeglasses", "Wearing_Hat")}
    counts += ~has["Young"] | has["Gray_Hair"]
    counts += has["Eyeglasses"]
    counts += has["Wearing_Hat"]
    return counts.clip(max=MOST)


def _cheeks(faces_N3HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean luma of cheeks and nose, N."""
    high, wide = faces_N3HW.shape[-2:]
    top = (high - wide) // 2
    means = []
    for left, right, above, below in PATCHES:
        rows = slice(top + int(above * wide), top + int(below * wide))
        patch = faces_N3HW[:, :, rows, int(left * wide) : int(right * wide)]
        means.append(patch.mean((2, 3), dtype=np.float32) @ LUMA)
    return np.asarray(np.mean(means, 0))
