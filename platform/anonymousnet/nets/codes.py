"""Which identity codes are painted from: those that promise whole faces.

A code decides more than who is seen. With some codes faces come out torn or dotted, whatever the photo; and what a code
does of this is nearly a linear function of the style that the generator makes of it (docs/adr/0019). So every secret
offers many codes, and the one whose style promises the least is taken. The choice hears neither photo nor released
attributes: epsilon is what it was, and a subject keeps one code. Codes so chosen can be heard louder without breaking
more faces, and a louder code is more surely one person.
"""

from __future__ import annotations

import copy

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.errors import WeightsError
from anonymousnet.nets.generator import Generator, style


class CodesConfig(BaseModel):
    """What the choice was made for."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    candidates: int = 32
    """Codes that a secret offers."""
    style: int = 128
    """Length of the generator's style."""
    generator: str
    """SHA-256 of its weights."""


class Codes(nn.Module):
    """B x K x C candidates -> B x C, of each face the code with the least expected oddness."""

    attributes_40: Tensor
    oddness_S: Tensor
    gain: Tensor

    def __init__(self, config: CodesConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("attributes_40", torch.zeros(len(ATTRIBUTES)))
        """Shares of a population, 0 to 1: styles are compared as of its mean."""
        self.register_buffer("oddness_S", torch.zeros(config.style))
        """What each unit of the style adds to the expected oddness."""
        self.register_buffer("gain", torch.ones(()))
        """How loud the generator is to hear codes; it was trained at 1."""
        self.mapping: nn.Module | None = None

    def of(self, generator: Generator) -> Codes:
        """The same, for this generator, which from now on hears its codes `gain` times as loud. Raises WeightsError
        where its style has another length."""
        if generator.config.style != self.config.style:
            raise WeightsError(
                f"codes: expected a generator whose style has length {self.config.style}, "
                f"got {generator.config.style}; make codes for it with `anonymousnet weights codes`"
            )
        generator.gain = float(self.gain)
        self.mapping = copy.deepcopy(generator.mapping).cpu().double()
        return self

    def forward(self, candidates_BKC: Tensor) -> Tensor:
        """In double precision and face by face, so that rounding cannot make it depend on the batch."""
        return torch.stack([candidates[int(self.oddness(candidates).argmin())] for candidates in candidates_BKC])

    def oddness(self, codes_KC: Tensor) -> Tensor:
        """Expected oddness of K codes, up to a constant: (K,), float64."""
        assert self.mapping is not None  # `of` comes first
        attributes = self.attributes_40.double().expand(len(codes_KC), -1)
        return style(self.mapping, attributes, codes_KC.double(), float(self.gain)) @ self.oddness_S.double()
