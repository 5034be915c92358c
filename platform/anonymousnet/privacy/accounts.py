"""Whose epsilon it is where nobody says: photos that are nearly the same outside their faces share an account.

    names("ann\\tberta", 2)                       # ("ann", "berta"): who the faces of a photo are
    one = sketch(blanked_HW3, hidden_HW, matrices_F23, face_px, region)
    distances(one, [other])[0] <= NEAR           # recompressed or resized: the same account
    bands(one)                                   # what a ledger looks candidates up by

A sketch is made of what lies outside the painted regions alone, so what is charged to whom tells nothing of a hidden
pixel. It is the photo's mean colours over a coarse grid, and how much of each cell was visible; less and less of a cell
counts as it nears a region, whose edge is a little elsewhere in a recompressed copy.

Bands are signs of fixed random projections of the sketch (locality-sensitive hashing for the angle: Charikar,
*Similarity estimation techniques from rounding algorithms*, STOC 2002): sketches that are nearly the same have a whole
band in common, other ones seldom do. What `distances` says then decides. Sketches show what a photo looks like from
far: they are for the ledger alone, which keeps hashes of bands and enciphers the rest.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.data.subjects import BETWEEN
from anonymousnet.errors import ProtectionFailed
from anonymousnet.privacy.randomness import normals

if TYPE_CHECKING:
    from anonymousnet.align.region import Region

GRID = 8
"""Cells a side."""
FINE = 8
"""Points a side of a cell at which the region's distance is taken."""
BANDS, BITS = 32, 24
NEAR = 0.22
"""Largest distance of near-duplicates."""
FLAT = 4.0
"""Spread, in levels of 255, below which surroundings are plain: what differs there is noise."""
LEAST = 0.01
"""Share of a photo that must be visible for it to be told from others."""
_FADE = (1.6, 2.0)
"""Region's level around a face up to which nothing counts, and from which on all does: beyond all that is hidden, wherever
the crop is placed, so that copies whose crops were placed elsewhere are alike."""

Floats = NDArray[np.float64]


def names(subject: str | None, faces: int) -> tuple[str, ...] | None:
    """Who each of a photo's faces is, left to right; None where nobody was named.

    One name stands for all faces. Raises ProtectionFailed where there are several, but not as many as faces.
    """
    if subject is None:
        return None
    named = tuple(subject.split(BETWEEN))
    if len(named) == 1:
        return named * faces
    if len(named) != faces:
        raise ProtectionFailed(
            f"expected {len(named)} faces, as many as there are subjects named for them, found {faces}; name one "
            "subject for all faces, or each of those that are there, left to right"
        )
    return named


def sketch(
    blanked_HW3: NDArray[np.uint8], hidden_HW: NDArray[np.bool_], matrices_F23: Floats, face_px: int, region: Region
) -> bytes:
    """Colours and weights of GRID x GRID cells: 4 x GRID^2 bytes. `blanked_HW3` is 0 wherever `hidden_HW` is set.

    `matrices_F23`: the faces' own alignments, before their crops are placed.
    """
    (height, width), side = hidden_HW.shape, GRID * FINE
    size, box = (side, side), Image.Resampling.BOX
    shown_SS = np.asarray(Image.fromarray(np.uint8(255) * ~hidden_HW).resize(size, box), np.float64) / 255
    colour_SS3 = np.asarray(Image.fromarray(blanked_HW3).resize(size, box), np.float64)
    y, x = (np.mgrid[:side, :side] + 0.5) * np.array([height, width])[:, None, None] / side
    weight_SS = shown_SS.copy()
    for (a, b, c), (d, e, f) in matrices_F23:
        level = region.level((a * x + b * y + c) / face_px, (d * x + e * y + f) / face_px)
        weight_SS *= np.clip((level - _FADE[0]) / (_FADE[1] - _FADE[0]), 0, 1)
    weight_SS[shown_SS < 0.3] = 0  # what a few pixels show of a cell is mostly the region's edge
    weight_GG = _cells(weight_SS)
    mean_SS3 = colour_SS3 / np.maximum(shown_SS, 1 / 255)[..., None]
    mean_GG3 = _cells(mean_SS3 * weight_SS[..., None]) / np.maximum(weight_GG, 1e-9)[..., None]
    values = np.concatenate([mean_GG3, 255 * weight_GG[..., None]], axis=2)
    return bytes(np.rint(values.clip(0, 255)).astype(np.uint8))


def distances(one: bytes, others: Sequence[bytes]) -> Floats:
    """Of one sketch to each of N others: 0 for the same, about 1 for another photo.

    Root mean square difference where both are visible, over the spread of colours there. Where next to nothing is
    visible of both photos, nothing tells them apart, and it is 0; of one of them alone, infinite.
    """
    if not others:
        return np.zeros(0)
    colour_C3, weight_C = (part[0] for part in _read([one]))
    colours_NC3, weights_NC = _read(others)
    both_NC = np.minimum(weight_C, weights_NC)
    seen_N = both_NC.mean(1)
    share_NC = both_NC / np.maximum(both_NC.sum(1, keepdims=True), 1e-9)
    off_N = (share_NC * ((colours_NC3 - colour_C3) ** 2).sum(2)).sum(1)
    spread_N = (_spread(np.broadcast_to(colour_C3, colours_NC3.shape), share_NC) + _spread(colours_NC3, share_NC)) / 2
    found_N = np.sqrt(off_N / (spread_N + FLAT**2))
    blank_N = np.maximum(weight_C.mean(), weights_NC.mean(1)) < LEAST
    return np.asarray(np.where(blank_N, 0.0, np.where(seen_N < LEAST, np.inf, found_N)))


def bands(sketch: bytes) -> list[bytes]:
    """What near-duplicates have at least one of in common: BANDS strings of BITS bits."""
    colours, weights = _read([sketch])
    share_NC = weights / np.maximum(weights.sum(), 1e-9)
    mean_N13 = np.einsum("nc,ncd->nd", share_NC, colours)[:, None]
    signs = ((colours - mean_N13) * weights[..., None]).reshape(-1) @ _projections() > 0
    return [np.packbits(band).tobytes() for band in signs.reshape(BANDS, BITS)]


@functools.cache
def _projections() -> Floats:
    """(colours of all cells, bits of all bands): fixed, and no secret: a ledger keys what comes of it."""
    count = 3 * GRID**2
    drawn = normals(hashlib.sha256(b"anonymousnet near-duplicates").digest(), count * BANDS * BITS)
    return drawn.reshape(count, BANDS * BITS).astype(np.float64)


def _read(sketches: Sequence[bytes]) -> tuple[Floats, Floats]:
    """Colours (N, cells, 3) in 0 to 255, weights (N, cells) in 0 to 1."""
    values = np.frombuffer(b"".join(sketches), np.uint8).reshape(len(sketches), -1, 4).astype(np.float64)
    return values[..., :3], values[..., 3] / 255


def _spread(colours_NC3: Floats, share_NC: Floats) -> Floats:
    """Weighted variance of the colours, summed over the channels."""
    mean_N3 = np.einsum("nc,ncd->nd", share_NC, colours_NC3)
    return np.asarray((share_NC * ((colours_NC3 - mean_N3[:, None]) ** 2).sum(2)).sum(1))


def _cells(values_SS: Floats) -> Floats:
    return np.asarray(values_SS.reshape(GRID, FINE, GRID, FINE, *values_SS.shape[2:]).mean((1, 3)))
