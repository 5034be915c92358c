"""What of a photo's faces travels to a stage and back: what it needs and what it gives, and nothing else.

A hop's time goes with its bytes. And a stage that is not sent the face, or the probabilities, cannot leak them.
"""

from __future__ import annotations

import torch

from anonymousnet.faces import FaceBatch
from anonymousnet.stage import Stage
from anonymousnet.stages.obfuscate import Obfuscate
from anonymousnet.stages.perturb import Perturb
from anonymousnet.stages.predict import Predict
from anonymousnet.stages.synthesize import Synthesize

KINDS: dict[str, type[Stage]] = {"predict": Predict, "obfuscate": Obfuscate, "synthesize": Synthesize,
                                 "perturb": Perturb}  # fmt: skip
LOOK = ("predict", "synthesize")
"""The stages that look at the context."""


def sent(name: str, faces: FaceBatch) -> FaceBatch:
    """What a stage needs of these faces."""
    return _only(KINDS[name].needs, faces, name in LOOK)


def given(name: str, done: FaceBatch) -> FaceBatch:
    """What a stage has added."""
    return _only(KINDS[name].gives, done, False)


def merged(name: str, before: FaceBatch, answer: FaceBatch) -> FaceBatch:
    """`before` with what a stage has added; after Stage I without the face."""
    added = {field: getattr(answer, field) for field in KINDS[name].gives}
    return before.with_(**added, source_B3HW=None, public=answer.public, seconds=answer.seconds)


def _only(fields: tuple[str, ...], faces: FaceBatch, context: bool) -> FaceBatch:
    b, _, h, w = faces.context_B3HW.shape
    blank = torch.zeros(1, 1, 1, 1)  # expanded, it is one number in memory and on its way
    return FaceBatch(
        context_B3HW=faces.context_B3HW if context else blank.expand(b, 3, h, w),
        region_B1HW=faces.region_B1HW if context else blank.expand(b, 1, h, w),
        draw_keys=faces.draw_keys, code_keys=faces.code_keys, strength=faces.strength, public=faces.public,
        seconds=faces.seconds, **{field: getattr(faces, field) for field in fields},
    )  # fmt: skip
