"""The other methods of the paper's Figure 1 (Li & Lin, CVPRW 2019), as releases of the same kind as ours.

Each is a function of aligned uint8 faces (N, 3, H, W), and each is confined to the region and the feather that ours
paints (`align.region`), so that all methods face the same attackers with the same hair and background around them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.align.region import FACE, Region
from anonymousnet.device import Runner
from anonymousnet.nets.translator import Translator
from anonymousnet.privacy.recognisers import unit_range

Faces = NDArray[np.uint8]

THIS, TRANSLATION = "this release", "translation (strength 0)"
BLUR_SIGMA = 1 / 16
"""Standard deviation of the Gaussian blur, as a share of the crop's side: 8 pixels of 128."""
CELLS = 8
"""Pixelation: cells per side of the region."""
NOISE_SIGMA = 0.6
"""Standard deviation of the noise, of a range of 2."""
K = 10
"""How many faces k-same averages into one."""


def untouched(faces_N3HW: Faces, region: Region = FACE) -> Faces:
    """The photo as it is: what every rate must be compared with."""
    return faces_N3HW.copy()


def blur(faces_N3HW: Faces, region: Region = FACE) -> Faces:
    """Gaussian blur."""
    side = faces_N3HW.shape[-1]
    sigma = BLUR_SIGMA * side
    reach = int(np.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)

    def soften(faces: Tensor) -> Tensor:
        padded = F.pad(faces, (reach, reach, reach, reach), "replicate")
        return F.conv2d(F.conv2d(padded, taps, groups=3), taps.transpose(2, 3), groups=3)

    return _in_chunks(faces_N3HW, soften, region)


def pixelate(faces_N3HW: Faces, region: Region = FACE) -> Faces:
    """Mean colours of a CELLS x CELLS grid over the region."""
    return _in_chunks(faces_N3HW, lambda faces: region.pixelated(faces, CELLS), region)


def black_box(faces_N3HW: Faces, region: Region = FACE) -> Faces:
    """The region in black: what is left to an attacker is hair, clothes and background alone."""
    return _in_chunks(faces_N3HW, lambda faces: torch.full_like(faces, -1), region)


def noise(faces_N3HW: Faces, region: Region = FACE) -> Faces:
    """Additive Gaussian noise, the same at every call."""
    source = torch.Generator().manual_seed(0)
    return _in_chunks(
        faces_N3HW, lambda faces: faces + NOISE_SIGMA * torch.randn(faces.shape, generator=source), region
    )


def k_same(faces_N3HW: Faces, region: Region = FACE) -> Faces:
    """Each face becomes the mean of itself and its K - 1 nearest (Newton, Sweeney & Malin, *Preserving privacy by
    de-identifying face images*, TKDE 2005): k-Same-Pixel on aligned faces, nearest at 16 x 16 pixels."""
    small = F.adaptive_avg_pool2d(torch.from_numpy(faces_N3HW).float(), 16).flatten(1)
    distances = torch.cdist(small, small)
    left = np.ones(len(faces_N3HW), np.bool_)
    means = np.empty(faces_N3HW.shape, np.float32)
    while left.any():
        rows = np.flatnonzero(left)
        nearest = rows[np.argsort(distances[rows[0]].numpy()[rows], kind="stable")]
        # The last group takes what remains, so that no group has fewer than K.
        group = nearest[:K] if len(rows) >= 2 * K else nearest
        means[group] = faces_N3HW[group].mean(0, dtype=np.float32)
        left[group] = False
    return confined(faces_N3HW, torch.from_numpy(means) / 127.5 - 1, region)


METHODS: dict[str, Callable[[Faces, Region], Faces]] = {
    "untouched": untouched, "blur": blur, "pixelate": pixelate, "black box": black_box, "noise": noise,
    "k-same": k_same,
}  # fmt: skip
"""Methods that need nothing but the faces."""


def translation(
    faces_N3HW: Faces, attributes_N40: NDArray[np.bool_], net: Translator, runner: Runner, region: Region = FACE
) -> Faces:
    """The paper's whole-face translation (strength 0) to given attributes, confined like the others."""
    side, px = faces_N3HW.shape[-1], net.config.px
    placed, wanted = runner.place(net), torch.from_numpy(attributes_N40).float()
    out = []
    for start in range(0, len(faces_N3HW), 64):
        faces = faces_N3HW[start : start + 64]
        seen = F.interpolate(unit_range(faces), size=(px, px), mode="bilinear", antialias=True)
        painted = runner(placed, seen, wanted[start : start + 64]).float()
        out.append(confined(faces, F.interpolate(painted, size=(side, side), mode="bicubic"), region))
    return np.concatenate(out)


def confined(faces_N3HW: Faces, painted_N3HW: Tensor, region: Region = FACE) -> Faces:
    """Painted faces (float in [-1, 1]) inside region and feather, the source around them; uint8."""
    _, weight = region.masks(faces_N3HW.shape[-1])
    mixed = painted_N3HW.clamp(-1, 1) * weight + unit_range(faces_N3HW) * (1 - weight)
    return np.asarray(((mixed + 1) * 127.5).round().clamp(0, 255).byte().numpy())


def _in_chunks(faces_N3HW: Faces, method: Callable[[Tensor], Tensor], region: Region) -> Faces:
    parts = [faces_N3HW[start : start + 64] for start in range(0, len(faces_N3HW), 64)]
    return np.concatenate([confined(part, method(unit_range(part)), region) for part in parts])
