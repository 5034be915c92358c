"""The one way out: a release is encoded, and looked at once more as whoever receives it will see it.

What looks like a face in the decoded file and was not painted withholds the photo, or is covered by a plain patch
(`align.unpainted`). The look sees only what would be released anyway: it is post-processing, which costs no epsilon.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anonymousnet.align.coverage import patch
from anonymousnet.align.finder import Finder
from anonymousnet.align.warp import Mask
from anonymousnet.config import Config
from anonymousnet.data.images import Photo, encode_photo, load_photo
from anonymousnet.errors import UnpaintedFace
from anonymousnet.faces import Evidence

if TYPE_CHECKING:  # it calls this module
    from anonymousnet.anonymizer import Release

GREY = 128
"""Of plain patches: a colour that tells nothing of what it covers."""


def encode_release(release: Release, hidden_HW: Mask, finder: Finder, config: Config) -> tuple[bytes, str, Release]:
    """(bytes, suffix such as ".jpg", what they show) of a release that may be let out.

    `hidden_HW` are the pixels that were painted: none in a photo that is released as it is. The release returned has
    the patches in its picture and their number in its evidence. Raises UnpaintedFace, ImageError.
    """
    settings, image, covered = config.release, release.image, 0
    data, suffix = encode_photo(image, settings.format, settings.quality)
    left = finder.unpainted(load_photo(data, config.align.max_pixels), hidden_HW)
    if left and config.align.unpainted == "cover":
        patches = np.logical_or.reduce([patch(face, hidden_HW.shape) for face in left])
        image, covered = with_patches(image, patches), len(left)
        data, suffix = encode_photo(image, settings.format, settings.quality)
        left = finder.unpainted(load_photo(data, config.align.max_pixels), hidden_HW | patches)
    if left:
        raise UnpaintedFace(
            f"expected no face but the painted ones, {len(left)} more places look like one; the photo is withheld; "
            "leave it out, or set align.unpainted=cover"
        )
    faces = tuple(replace(face, evidence=_with_covered(face.evidence, covered)) for face in release.faces)
    return data, suffix, replace(release, image=image, faces=faces)


def with_patches(image: Photo, patches_HW: Mask) -> Photo:
    """A copy of a photo with plain grey, opaque, wherever `patches_HW` is true."""
    rgb = np.where(patches_HW[..., None], np.uint8(GREY), image.rgb)
    alpha = None if image.alpha is None else np.where(patches_HW, np.uint8(255), image.alpha)
    return Photo(rgb, alpha, image.format)


def _with_covered(evidence: Evidence, covered: int) -> Evidence:
    return replace(evidence, public=replace(evidence.public, covered=covered))
