"""How light skin is, in a photo and in what was painted into it. Light that falls on a face counts as skin here."""

from __future__ import annotations

import kornia.color
import numpy as np
import torch
from numpy.typing import NDArray

Faces = NDArray[np.uint8]

PATCHES = ((0.33, 0.43, 0.60, 0.68), (0.57, 0.67, 0.60, 0.68), (0.46, 0.54, 0.56, 0.64))
"""Both cheeks and the bridge of the nose in an aligned crop, in shares of it: left, right, top, bottom."""
KINDS = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0, "dark": -np.inf}
"""Kinds of skin, each with the individual typology angle that it lies above (Chardon et al., IJCS 1991)."""


def skin(faces_N3HW: Faces) -> NDArray[np.float64]:
    """(N, 3) median CIE L* (0 black, 100 white), a* and b* of the cheeks and the nose of uint8 aligned crops."""
    side = faces_N3HW.shape[-1]
    boxes = [[int(share * side) for share in patch] for patch in PATCHES]
    parts = [
        faces_N3HW[:, :, top:bottom, left:right].reshape(len(faces_N3HW), 3, -1) for left, right, top, bottom in boxes
    ]
    rgb = torch.from_numpy(np.concatenate(parts, 2)).double()[..., None] / 255
    return np.asarray(np.median(kornia.color.rgb_to_lab(rgb)[..., 0].numpy(), axis=2))


def kinds(skin_N3: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Kind of skin -> members: bool (N,), lightest first; empty kinds are left out, every face is of one kind.

    `skin_N3`: CIE L*, a*, b*."""
    angles = np.degrees(np.arctan2(skin_N3[:, 0] - 50, skin_N3[:, 2]))
    limits = np.array(list(KINDS.values()))
    which = (angles[:, None] <= limits).sum(1)  # limits not passed, from the highest down
    found = {name: which == i for i, name in enumerate(KINDS)}
    return {f"skin: {name}": members for name, members in found.items() if members.any()}
