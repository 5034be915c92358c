"""Stage III: paint the region anew from what may be seen, the released attributes and a random code.

At strength 1 the generator sees nothing of the region: the batch it is handed no longer holds the face (Stage I
dropped it), and its context is blank there. Code and noise come from `code_keys`, never from a global generator.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet.device import Runner
from anonymousnet.errors import StageError
from anonymousnet.faces import FaceBatch
from anonymousnet.nets.codes import Codes
from anonymousnet.nets.generator import Generator
from anonymousnet.nets.translator import Translator
from anonymousnet.privacy.randomness import derive, normals
from anonymousnet.stage import Stage


class Synthesize(Stage):
    """Generator -> `faces_B3HW`, the whole crop painted; the paste keeps the region and its feather."""

    name: ClassVar[str] = "synthesize"
    needs: ClassVar[tuple[str, ...]] = ("released_B40",)
    gives: ClassVar[tuple[str, ...]] = ("faces_B3HW",)

    def __init__(self, generator: Generator, runner: Runner, choice: Codes | None = None) -> None:
        self.choice = None if choice is None else choice.of(generator)
        self.generator = runner.place(generator)
        self.runner, self.form = runner, runner.form

    def apply(self, batch: FaceBatch) -> FaceBatch:
        shape = self.generator.config
        assert batch.released_B40 is not None  # `needs` holds it
        if batch.source_B3HW is not None:
            raise StageError("synthesize: expected a batch without the source face, got one; run Stage I first")
        if batch.context_B3HW.shape[-1] != shape.px:
            raise StageError(f"synthesize: expected faces of {shape.px} px, got {batch.context_B3HW.shape[-1]} px")
        code, noise = codes(batch.code_keys, shape.code, shape.px, self.choice)
        strength = torch.full((len(batch),), batch.strength)
        painted = self.runner(
            self.generator, batch.context_B3HW, batch.region_B1HW, strength, batch.released_B40.float(), code, noise
        )
        return batch.with_(faces_B3HW=painted.float().clamp(-1, 1))


class Translate(Stage):
    """Strength 0: the paper's attribute translation of the whole face (StarGAN). No pixel guarantee."""

    name: ClassVar[str] = "synthesize"
    needs: ClassVar[tuple[str, ...]] = ("released_B40",)
    gives: ClassVar[tuple[str, ...]] = ("faces_B3HW",)

    def __init__(self, translator: Translator, runner: Runner) -> None:
        self.translator = runner.place(translator)
        self.runner, self.form = runner, runner.form

    def apply(self, batch: FaceBatch) -> FaceBatch:
        if batch.strength != 0:
            raise StageError(f"translate: expected a batch of strength 0, got {batch.strength}")
        assert batch.released_B40 is not None  # `needs` holds it
        side, px = batch.context_B3HW.shape[-1], self.translator.config.px
        faces = F.interpolate(batch.context_B3HW, size=(px, px), mode="bilinear", antialias=True)
        painted = self.runner(self.translator, faces, batch.released_B40.float()).float()
        return batch.with_(faces_B3HW=F.interpolate(painted, size=(side, side), mode="bicubic").clamp(-1, 1))


def codes(keys: tuple[bytes, ...], length: int, px: int, choice: Codes | None = None) -> tuple[Tensor, Tensor]:
    """(code B x length, noise B x 1 x px x px), standard normal, each face from its own 32-byte key alone.

    With `choice`, a key offers many codes, and that decides.
    """
    drawn = _drawn(keys, length + px * px)
    code, noise = drawn[:, :length].contiguous(), drawn[:, length:].reshape(len(keys), 1, px, px).contiguous()
    if choice is not None and keys:
        offered = tuple(derive(key, "candidates") for key in keys)
        code = choice(_drawn(offered, choice.config.candidates * length).reshape(len(keys), -1, length))
    return code, noise


def _drawn(keys: tuple[bytes, ...], count: int) -> Tensor:
    """B x count, standard normal."""
    return torch.from_numpy(np.array([normals(key, count) for key in keys], np.float32).reshape(len(keys), count))
