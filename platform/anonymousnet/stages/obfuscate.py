"""Stage II: release attributes under epsilon-differential privacy and t-closeness."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from anonymousnet.faces import FaceBatch
from anonymousnet.privacy.mechanism import UNIFORMS, Mechanism
from anonymousnet.privacy.randomness import uniforms
from anonymousnet.stage import Stage


class Obfuscate(Stage):
    """Mechanism -> `released_B40`. Each face draws from its own key, so a replay gives the same answer."""

    name: ClassVar[str] = "obfuscate"
    needs: ClassVar[tuple[str, ...]] = ("read_B40", "shown_B40")
    gives: ClassVar[tuple[str, ...]] = ("released_B40",)

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism

    def apply(self, batch: FaceBatch) -> FaceBatch:
        assert batch.read_B40 is not None  # `needs` holds both
        assert batch.shown_B40 is not None
        truth = self.mechanism.seen(batch.read_B40.numpy(), batch.shown_B40.numpy())
        drawn = np.array([uniforms(key, UNIFORMS) for key in batch.draw_keys]).reshape(len(batch), UNIFORMS)
        released = torch.from_numpy(self.mechanism.release(truth, drawn))
        unprotected = (*self.mechanism.unprotected, *self.mechanism.followed)
        spent = {"epsilon": self.mechanism.epsilon, "t": self.mechanism.t, "unprotected": unprotected}
        return batch.with_(released_B40=released, public={**batch.public, **spent})
