"""What the world does to released faces: JPEG, resizing, blur. Differentiable for the solver, real for judging.

Everything here is a pure function of faces, (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


class Disturbance(NamedTuple):
    """One drawn disturbance of a batch, small enough to be sent to every worker."""

    kind: Literal["none", "resized", "quantised"] = "none"
    amount: float = 0.0


def drawn(seed: int, batches: int) -> list[Disturbance]:
    """The disturbances of an epoch's batches: a third none, a third resized, a third quantised."""
    generator = torch.Generator().manual_seed(seed)
    return [_draw(generator) for _ in range(batches)]


def _draw(generator: torch.Generator) -> Disturbance:
    kind = int(torch.randint(3, (), generator=generator))
    if kind == 1:
        return Disturbance("resized", 0.5 + 0.5 * float(torch.rand((), generator=generator)))
    if kind == 2:
        return Disturbance("quantised", 0.04 + 0.10 * float(torch.rand((), generator=generator)))
    return Disturbance()


def disturbed(faces: Tensor, disturbance: Disturbance) -> Tensor:
    """Faces as they come back from the world; gradients flow. `amount`: share of the side, or `quantised`'s step."""
    if disturbance.kind == "resized":
        return resized(faces, disturbance.amount)
    if disturbance.kind == "quantised":
        return quantised(faces, disturbance.amount)
    return faces


def resized(faces: Tensor, share: float) -> Tensor:
    """Made smaller, to a share of the side, and back."""
    side = int(faces.shape[-1] * share)
    small = F.interpolate(faces, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=faces.shape[-2:], mode="bilinear")


def quantised(faces: Tensor, step: float) -> Tensor:
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


def compressed(faces: Tensor, quality: int) -> Tensor:
    """Through a real JPEG file (Pillow's, colours at half the resolution)."""
    out = []
    for pixels in ((faces + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(stream)))
    return torch.from_numpy(np.stack(out)).to(faces).permute(0, 3, 1, 2) / 127.5 - 1


def blurred(faces: Tensor, sigma: float) -> Tensor:
    """A Gaussian of `sigma` pixels."""
    reach = round(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=faces.device) / sigma) ** 2)
    kernel = (line[:, None] * line[None] / line.sum() ** 2).expand(3, 1, -1, -1).to(faces.dtype)
    return F.conv2d(F.pad(faces, (reach,) * 4, "reflect"), kernel, groups=3)


WORLD: dict[str, Callable[[Tensor], Tensor]] = {
    "as released": lambda faces: faces,
    "JPEG 75": partial(compressed, quality=75),
    "JPEG 50": partial(compressed, quality=50),
    "half the size and back": partial(resized, share=0.5),
    "blur of 1 pixel": partial(blurred, sigma=1.0),
}
"""What v is judged under."""
