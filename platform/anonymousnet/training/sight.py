"""What the shipped embedder, frozen, sees of faces; and the loss by which a code becomes a person to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet import weights
from anonymousnet.device import to_device
from anonymousnet.nets.embedder import Embedder
from anonymousnet.nets.fold import folded
from anonymousnet.training.losses import Parts, verification_loss

SAME_PERSON = 0.28
"""The cosine above which the shipped embedder takes two photos for one person (FAR 1e-2, validation people)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Faces, and the embedder's maps of them."""

    faces_B3HW: Tensor
    maps: list[Tensor]
    """(B, C, h, w) each, fine to coarse."""

    def detach(self) -> Seen:
        """The same, of which nothing is learned."""
        return Seen(self.faces_B3HW.detach(), [m.detach() for m in self.maps])

    def coarse(self) -> tuple[Tensor, list[Tensor]]:
        """What a critic is given: the faces and the coarser maps; finer ones are what it sees in the pixels."""
        return self.faces_B3HW, self.maps[-len(Sight.COARSE) :]


class Sight:
    """The embedder in the package, in evaluation mode; gradients pass through it and change nothing of it."""

    COARSE: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """Which resolutions a critic judges, 0 being the finest."""

    def __init__(self) -> None:
        self.embedder = folded(weights.build(weights.read("embedder"), Embedder)).requires_grad_(False)
        self.channels = tuple(self.embedder.config.width * 2**i for i in self.COARSE)
        """Of the maps that a critic judges."""

    def see(self, faces_B3HW: Tensor) -> Seen:
        """Faces in [-1, 1], of any side."""
        to_device(self.embedder, faces_B3HW.device)
        px = self.embedder.config.px
        resized = faces_B3HW
        if faces_B3HW.shape[-1] != px:
            resized = F.interpolate(faces_B3HW, (px, px), mode="bilinear")
        return Seen(faces_B3HW, self.embedder.trunk.maps(resized))

    def vectors(self, seen: Seen) -> Tensor:
        """Identity vectors, B x D of unit length."""
        return self.embedder.embed(seen.maps)


def identity_loss(vectors_BD: Tensor, sources_ND: Tensor, hidden_N: Tensor, male_N: Tensor) -> tuple[Tensor, Parts]:
    """What the embedder says against "a code is a person, and nobody who is in a photo".

    `vectors_BD` are of B = 2 N paintings of N contexts: a quarter a, and a quarter c with the codes of a; then both
    again with other codes. `sources_ND` are of the N untouched faces. Pairs with a face that is not wholly `hidden_N`
    (1 or 0), and pulled pairs of two sexes (a code does not choose the sex), count 0.
    """
    a, c, a_again, c_again = vectors_BD.float().chunk(4)
    left, right = hidden_N.chunk(2)
    sex, sex_c = male_N.chunk(2)
    alike = left * right * (sex == sex_c).float()
    cosine = F.cosine_similarity
    one, two, strange = cosine(a_again, c_again), cosine(a, a_again), cosine(a, c_again)
    source = cosine(vectors_BD.float()[len(sources_ND) :], sources_ND.float())
    pulled = [verification_loss(cosines, True, SAME_PERSON, alike) for cosines in (one, cosine(a, c))]
    # Two codes, one context: the pair that is hardest to tell apart. Two codes, two contexts: strangers.
    pushed = [
        verification_loss(cosines, False, SAME_PERSON, counts)
        for cosines, counts in (
            (two, left), (cosine(c, c_again), right), (strange, left * right), (source, hidden_N)
        )
    ]  # fmt: skip
    loss = torch.stack(pulled).sum() + torch.stack(pushed).sum() / 1.5
    cosines = {"one_code": one, "two_codes": two, "strangers": strange, "own_source": source}
    # Means over all pairs: of those that count, each worker has another number.
    return loss, {"identity": loss.detach()} | {name: values.detach().mean() for name, values in cosines.items()}
