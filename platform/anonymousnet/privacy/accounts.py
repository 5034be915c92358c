"""Whose epsilon it is where nobody says: photos that are nearly the same outside their faces share an account.

    names("ann\\tberta", 2)                       # ("ann", "berta"): who the faces of a photo are
    one = sketch(blanked_HW3, hidden_HW)
    distances(one, [other])[0] <= NEAR           # recompressed or resized: the same account
    bands(one)                                   # what a ledger looks candidates up by

A sketch is made of what lies outside the painted regions alone, so what is charged to whom tells nothing of a hidden
pixel: the photo's mean colours over a coarse grid. Cells of which any pixel is hidden are left out, for in a copy the
regions lie elsewhere; those that are whole in both copies show the same.

Bands are signs of fixed random projections (locality-sensitive hashing for the angle: Charikar, *Similarity estimation
techniques from rounding algorithms*, STOC 2002) of parts of the grid along the photo's edges: near-duplicates have a
whole band in common where one such part is visible in both, other photos seldom do. What `distances` says then decides.
Sketches show what a photo looks like from far: they are for the ledger alone, which keeps hashes of bands and enciphers
the rest.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.data.subjects import BETWEEN
from anonymousnet.errors import ProtectionFailed
from anonymousnet.privacy.randomness import normals

GRID = 16
"""Cells a side."""
EDGES = (1, 2, 3, 4)
"""Widths, in cells, of the parts along the edges that bands are made of."""
BANDS, BITS = 3, 20
"""Bands of each part, and bits of each band."""
NEAR = 0.22
"""Largest distance of near-duplicates."""
FLAT = 4.0
"""Spread, in levels of 255, below which surroundings are plain: what differs there is noise."""
LEAST = 0.02
"""Share of a photo that must be visible for it to be told from others."""

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


def sketch(blanked_HW3: NDArray[np.uint8], hidden_HW: NDArray[np.bool_]) -> bytes:
    """Colours of GRID x GRID cells, 0 where any pixel is hidden, and which cells are visible: 4 x GRID^2 bytes.

    `blanked_HW3` is 0 wherever `hidden_HW` is set.
    """
    size, box = (GRID, GRID), Image.Resampling.BOX
    hidden_GG = np.asarray(Image.fromarray(np.where(hidden_HW, np.uint8(255), np.uint8(0))).resize(size, box))
    visible_GG1 = (hidden_GG == 0)[..., None]
    colour_GG3 = np.asarray(Image.fromarray(blanked_HW3).resize(size, box))
    return bytes(np.concatenate([colour_GG3, np.full_like(colour_GG3[..., :1], 255)], axis=2) * visible_GG1)


def distances(one: bytes, others: Sequence[bytes]) -> Floats:
    """Of one sketch to each of N others: 0 for the same, about 1 for another photo.

    Root mean square difference where both are visible, over the spread of colours there. Where next to nothing is
    visible of both photos, nothing tells them apart, and it is 0; of one of them alone, infinite.
    """
    if not others:
        return np.zeros(0)
    colour_C3, visible_C = (part[0] for part in _read([one]))
    colours_NC3, visible_NC = _read(others)
    both_NC = visible_C * visible_NC
    share_NC = both_NC / np.maximum(both_NC.sum(1, keepdims=True), 1)
    off_N = (share_NC * ((colours_NC3 - colour_C3) ** 2).sum(2)).sum(1)
    spread_N = (_spread(np.broadcast_to(colour_C3, colours_NC3.shape), share_NC) + _spread(colours_NC3, share_NC)) / 2
    found_N = np.where(both_NC.mean(1) < LEAST, np.inf, np.sqrt(off_N / (spread_N + FLAT**2)))
    blank_N = np.maximum(visible_C.mean(), visible_NC.mean(1)) < LEAST
    return np.asarray(np.where(blank_N, 0.0, found_N))


def bands(sketch: bytes) -> list[bytes]:
    """What near-duplicates have at least one of in common."""
    colours_C3, visible_C = (part[0] for part in _read([sketch]))
    parts_PC = _parts() * visible_C
    mean_P3 = parts_PC @ colours_C3 / np.maximum(parts_PC.sum(1, keepdims=True), 1)
    centred_PC3 = (colours_C3 - mean_P3[:, None]) * parts_PC[..., None]
    signs = centred_PC3.reshape(len(parts_PC), -1) @ _projections() > 0
    return [np.packbits(band).tobytes() for band in signs.reshape(-1, BITS)]


@functools.cache
def _parts() -> Floats:
    """(P, cells) of 0 and 1: strips along each edge, frames, and the whole."""
    y, x = np.mgrid[:GRID, :GRID]
    edges = [x, y, GRID - 1 - x, GRID - 1 - y]
    frame = np.minimum.reduce(edges)
    parts = [edge < width for width in EDGES for edge in (*edges, frame)]
    return np.array([*parts, np.ones((GRID, GRID), bool)]).reshape(-1, GRID**2).astype(np.float64)


@functools.cache
def _projections() -> Floats:
    """(colours of all cells, bits of a part's bands): fixed, and no secret: a ledger keys what comes of it."""
    count = 3 * GRID**2
    drawn = normals(hashlib.sha256(b"anonymousnet near-duplicates").digest(), count * BANDS * BITS)
    return drawn.reshape(count, BANDS * BITS).astype(np.float64)


def _read(sketches: Sequence[bytes]) -> tuple[Floats, Floats]:
    """Colours (N, cells, 3) in 0 to 255, and which cells are visible (N, cells), 0 or 1."""
    values = np.frombuffer(b"".join(sketches), np.uint8).reshape(len(sketches), -1, 4).astype(np.float64)
    return values[..., :3], values[..., 3] / 255


def _spread(colours_NC3: Floats, share_NC: Floats) -> Floats:
    """Weighted variance of the colours, summed over the channels."""
    mean_N3 = np.einsum("nc,ncd->nd", share_NC, colours_NC3)
    return np.asarray((share_NC * ((colours_NC3 - mean_N3[:, None]) ** 2).sum(2)).sum(1))
