"""The 40 CelebA attributes, in the official order, and what is known about each.

Source: Liu et al., *Deep Learning Face Attributes in the Wild* (ICCV 2015), `list_attr_celeba.txt`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald",
    "Bangs", "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair",
    "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones",
    "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard",
    "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings",
    "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip

INDEX: dict[str, int] = {name: i for i, name in enumerate(ATTRIBUTES)}

OUTSIDE_FACE: frozenset[str] = frozenset({
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Gray_Hair", "Receding_Hairline",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Necklace", "Wearing_Necktie",
})  # fmt: skip
"""Attributes that show outside the painted region `face`: Stage III cannot change them, so whatever Stage II
releases, the photo itself still shows them. Reports name them as unprotected."""

OUTSIDE_HEAD: frozenset[str] = frozenset({
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Gray_Hair", "Straight_Hair", "Wavy_Hair", "Wearing_Hat",
    "Wearing_Necklace", "Wearing_Necktie",
})  # fmt: skip
"""The same for the region `head`: long hair and wide hats go on outside of it."""

RegionName = Literal["face", "head"]
OUTSIDE: dict[RegionName, frozenset[str]] = {"face": OUTSIDE_FACE, "head": OUTSIDE_HEAD}
"""By the name of the region (`align.region`)."""

SUBGROUPS = ("Male", "Young", "Pale_Skin")
"""Attributes that every headline rate is split by."""
ALL = "all"
"""What a table calls everyone, beside its subgroups."""


def subgroups(truth_N40: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Name such as "Male: no" -> members (N,), by true attributes; empty groups are left out."""
    found = {}
    for name in SUBGROUPS:
        for value in (True, False):
            members = truth_N40[:, INDEX[name]] == value
            if members.any():
                found[f"{name.replace('_', ' ')}: {'yes' if value else 'no'}"] = members
    return found
