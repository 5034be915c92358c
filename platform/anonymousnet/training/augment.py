"""Augmentation of faces in batches, on the device. Randomness: `draw`, which the loop seeds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet import draw
from anonymousnet.training.disturbances import blurred, quantised


def flip(faces: Tensor, chance: float = 0.5) -> Tensor:
    """Mirror a random part of the batch left to right."""
    mirrored = draw.uniform(len(faces), device=faces.device) < chance
    return torch.where(mirrored[:, None, None, None], faces.flip(3), faces)


def jitter_matrices(n: int, degrees: float, scale: float, shift: float) -> Tensor:
    """Random similarities (n, 2, 3) for `affine_grid`: rotation +-degrees, zoom +-scale, shift +-shift of the side."""
    angle = (draw.uniform(n) * 2 - 1) * math.radians(degrees)
    zoom = 1 + (draw.uniform(n) * 2 - 1) * scale
    move = (draw.uniform(n, 2) * 2 - 1) * 2 * shift
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    return torch.stack([torch.stack([cos, -sin, move[:, 0]], 1), torch.stack([sin, cos, move[:, 1]], 1)], 1)


def jitter(faces: Tensor, degrees: float, scale: float, shift: float) -> Tensor:
    """Rotate, zoom and shift every face at random; edges are replicated."""
    grid = F.affine_grid(jitter_matrices(len(faces), degrees, scale, shift).to(faces), list(faces.shape), False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def shift(faces: Tensor, most: int) -> Tensor:
    """Move every face at random by up to `most` whole pixels each way; edges are replicated. It blurs nothing, as any
    other movement does."""
    n, channels, height, width = faces.shape
    device = faces.device
    padded = F.pad(faces, (most, most, most, most), mode="replicate")
    rows = draw.integers(2 * most + 1, n, device=device)[:, None] + torch.arange(height, device=device)
    columns = draw.integers(2 * most + 1, n, device=device)[:, None] + torch.arange(width, device=device)
    image = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def recolour(faces: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Change light and colour at random; stays in [-1, 1]."""

    def factor(amount: float) -> Tensor:
        return 1 + (draw.uniform(len(faces), 1, 1, 1, device=faces.device) * 2 - 1) * amount

    grey = faces.mean(1, keepdim=True)
    faces = grey + (faces - grey) * factor(saturation)
    mean = faces.mean((1, 2, 3), keepdim=True)
    return (mean * factor(brightness) + (faces - mean) * factor(contrast) + (factor(brightness) - 1)).clamp(-1, 1)


def erase(faces: Tensor, chance: float, largest: float = 0.4) -> Tensor:
    """Grey rectangles over a random part of the batch (Zhong et al., AAAI 2020)."""
    n, side = len(faces), faces.shape[3]
    size = (draw.uniform(n, 2) * (largest - 0.1) + 0.1) * side
    corner = draw.uniform(n, 2) * (side - size)
    line = torch.arange(side)
    inside = (line[None, None] >= corner[:, :, None]) & (line[None, None] < (corner + size)[:, :, None])
    box = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    box &= (draw.uniform(n) < chance)[:, None, None, None]
    return faces.masked_fill(box.to(faces.device), 0.0)


def weather(faces: Tensor) -> Tensor:
    """Blur a random quarter of the batch (1 pixel) and compress another quarter as JPEG at quality 50 does."""
    fate = draw.uniform(len(faces), 1, 1, 1, device=faces.device)
    soft, coded = blurred(faces, 1.0), quantised(faces, 0.13)
    return torch.where(fate < 0.25, soft, torch.where(fate < 0.5, coded, faces)).clamp(-1, 1)
