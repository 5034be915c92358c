"""Stage IV: one universal adversarial perturbation, the same for every face, added to all of them.

v is fixed before any release: it is post-processing, and costs no epsilon.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from anonymousnet.errors import StageError
from anonymousnet.faces import FaceBatch
from anonymousnet.stage import Stage


class Perturb(Stage):
    """faces + 2 epsilon v, clipped to [-1, 1] (Moosavi-Dezfooli et al., CVPR 2017).

    `v`: (3, H, W) in [-1, 1], the perturbation at unit size. `epsilon`: its L-infinity norm as a share of the full
    range of a channel (10/255 is ten grey levels); faces span 2, hence the factor.
    """

    name: ClassVar[str] = "perturb"
    needs: ClassVar[tuple[str, ...]] = ("faces_B3HW",)
    gives: ClassVar[tuple[str, ...]] = ("faces_B3HW",)

    def __init__(self, v: Tensor, epsilon: float) -> None:
        if v.ndim != 3 or v.shape[0] != 3 or float(v.abs().max()) > 1 + 1e-3:
            raise StageError(f"perturb: expected v of shape (3, H, W) in [-1, 1], got {tuple(v.shape)}")
        self.v, self.epsilon = v.float(), epsilon

    def apply(self, batch: FaceBatch) -> FaceBatch:
        assert batch.faces_B3HW is not None  # `needs` holds it
        side = batch.faces_B3HW.shape[-1]
        v = self.v
        if v.shape[-1] != side:
            v = F.interpolate(v[None], size=(side, side), mode="bilinear", antialias=True)[0]
        perturbed = (batch.faces_B3HW + 2 * self.epsilon * v.clamp(-1, 1)).clamp(-1, 1)
        return batch.with_(faces_B3HW=perturbed, public={**batch.public, "perturbation": self.epsilon})
