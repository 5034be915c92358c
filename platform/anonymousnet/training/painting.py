"""Aligned faces of a table through the stages and back into their context, without photos around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.faces import FaceBatch


def painted(
    anonymizer: Anonymizer, faces_B3HW: NDArray[np.uint8], draws: Sequence[bytes], codes: Sequence[bytes]
) -> tuple[Tensor, Tensor]:
    """((B, 3, px, px) in [-1, 1] as the anonymizer's stages release them, released attributes: bool (B, 40)).

    `draws`, `codes`: for each face, the secrets that its attributes and its identity code are drawn from.
    """
    region, weight = anonymizer.region.masks(anonymizer.face_px)
    source = torch.from_numpy(faces_B3HW).float().div_(127.5).sub_(1).contiguous()
    context = anonymizer.region.pixelated(source, 0)
    batch = FaceBatch(context, region.expand(len(source), -1, -1, -1), tuple(draws), tuple(codes), source_B3HW=source)
    done = anonymizer.run(batch)
    assert done.faces_B3HW is not None  # stages II and III hold both
    assert done.released_B40 is not None
    return done.faces_B3HW * weight + source * (1 - weight), done.released_B40
