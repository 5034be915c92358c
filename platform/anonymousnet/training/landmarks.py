"""Task `landmarks`: the Deep Alignment Network on 68 points, from rendered faces or from a teacher's labels.

CelebA has no 68 points. `python -m anonymousnet.training.teacher CELEBA CELEBA/landmarks_68.npz` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anonymousnet import draw, weights
from anonymousnet.config import TrainConfig
from anonymousnet.errors import DataError
from anonymousnet.nets.dan import DAN, DANConfig, five_from_68, landmark_loss
from anonymousnet.training.augment import erase, jitter_matrices, recolour, weather
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine
from anonymousnet.training.labels import LANDMARKS
from anonymousnet.training.task import Task

FAILED = 0.10
"""A face whose mean error exceeds this share of the eyes' distance counts as failed (Kowalski et al., section 4)."""

MIRRORED: tuple[int, ...] = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""Where each of the 68 points goes when a face is mirrored (iBUG order)."""


class LandmarksTask(Task):
    """Sum over stages of the mean point error over the eyes' distance, on strongly augmented faces."""

    name: ClassVar[str] = "landmarks"
    weights: ClassVar[str] = "landmarks"
    px_multiple: ClassVar[int] = 16
    labels: ClassVar[str | None] = LANDMARKS
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 6000, "batch": 32, "lr": 1e-3, "ema": 0.998, "px": 112, "width": 32,
    }  # fmt: skip

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        super().__init__(config, contents)
        if not contents.landmarks:
            raise DataError(
                "expected 68 landmarks for every face, got none; make them with "
                "`python -m anonymousnet.training.teacher CELEBA CELEBA/landmarks_68.npz`, or use --synthetic"
            )
        self.shape = DANConfig(px=config.px or 112, width=config.width or 32)

    def networks(self) -> dict[str, nn.Module]:
        return {"dan": self.started(DAN(self.shape))}

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        engine = engines["dan"]
        engine.module.train()
        assert batch.landmarks_B682 is not None
        # Some 1.5 to three times what crops placed by the detector differ by (2 degrees, 0.065, 0.01 of the side).
        faces, points = moved(*mirrored(batch.faces_B3HW, batch.landmarks_B682), degrees=5, scale=0.10, shift=0.03)
        faces = erase(weather(recolour(faces, 0.4, 0.4, 0.4)), chance=0.2, largest=0.4)
        answers = engine.module(faces.contiguous(memory_format=torch.channels_last))
        losses = [landmark_loss(answer, points) for answer in answers]
        engine.step(torch.stack(losses).sum())
        return {f"stage{i + 1}": loss.detach() for i, loss in enumerate(losses)}

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        """Mean error over the eyes' distance, and the share of faces beyond FAILED."""
        device = next(networks["dan"].parameters()).device
        errors = []
        for rows in np.array_split(np.arange(len(held_out)), max(1, len(held_out) // 64)):
            batch = held_out.batch(rows, device)
            assert batch.landmarks_B682 is not None
            answers = networks["dan"](batch.faces_B3HW)[-1]
            eyes = five_from_68(batch.landmarks_B682)
            apart = (eyes[:, 0] - eyes[:, 1]).norm(dim=1)
            errors.append((answers - batch.landmarks_B682).norm(dim=2).mean(1) / apart)
        error = torch.cat(errors)
        return {"error": float(error.mean()), "failed": float((error > FAILED).float().mean())}

    def samples(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> Tensor | None:
        """Twelve faces with the network's points on them."""
        device = next(networks["dan"].parameters()).device
        batch = held_out.batch(np.arange(min(12, len(held_out))), device)
        faces, px = batch.faces_B3HW.clone(), self.shape.px
        for face, points in zip(faces, networks["dan"](batch.faces_B3HW)[-1].long().clamp(0, px - 1), strict=True):
            face[:, points[:, 1], points[:, 0]] = torch.tensor([-1.0, 1.0, -1.0], device=device)[:, None]
        return torch.cat(list(faces), 2)

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        weights.write(folder, "dan", self.shape.model_dump(), networks["dan"].state_dict(), notes)


def mirrored(faces: Tensor, points_B682: Tensor) -> tuple[Tensor, Tensor]:
    """A random half of the faces mirrored, points (in pixels) along with them."""
    chosen = draw.uniform(len(faces), device=faces.device) < 0.5
    flipped = points_B682[:, list(MIRRORED)]
    flipped = torch.stack([faces.shape[-1] - flipped[..., 0], flipped[..., 1]], -1)
    return (
        torch.where(chosen[:, None, None, None], faces.flip(3), faces),
        torch.where(chosen[:, None, None], flipped, points_B682),
    )


def moved(faces: Tensor, points_BL2: Tensor, degrees: float, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """Faces rotated, zoomed and shifted at random, points (in continuous pixels) along with them."""
    matrices = jitter_matrices(len(faces), degrees, scale, shift).to(faces)
    grid = F.affine_grid(matrices, list(faces.shape), False)
    out = F.grid_sample(faces, grid, padding_mode="border", align_corners=False)
    # The grid says where each output pixel comes from; points go the other way.
    unit = points_BL2 * (2 / faces.shape[-1]) - 1
    back = torch.linalg.inv(matrices[:, :, :2])
    unit = (unit - matrices[:, None, :, 2]) @ back.transpose(1, 2)
    return out, (unit + 1) * (faces.shape[-1] / 2)
