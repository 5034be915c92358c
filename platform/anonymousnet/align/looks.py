"""Looks at a photo that only propose: all four orientations, and large photos at their own size, in tiles.

CenterFace knows upright faces of 20 px and more. Of 60 real faces, scored above the usual threshold of 0.35 (and above
CANDIDATE): upright 0.85 (0.97) at 16 px, 1.00 (1.00) at 24 px; turned by 180 degrees 0.12 (0.63) and 0.50 (0.88), which
is why the photo is turned as well. The same network runs here as in `detect`, in bfloat16 where the CPU multiplies that
in hardware: twice as fast, and what it proposes is looked at once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.align.detect import ANY_RGB, Array, Detection, decode, padded, scales
from anonymousnet.align.warp import Rgb
from anonymousnet.config import AlignConfig
from anonymousnet.nets.centerface_file import read_centerface
from anonymousnet.nets.onnx_network import OnnxNetwork

CANDIDATE = 0.1
"""Score from which on something may be a face."""
TILE = 1024
"""Side of the tiles that large photos are looked at in, in network pixels: what bounds the memory."""
SHARED = 128
"""Pixels that neighbouring tiles share: a face of up to this size lies wholly in one of them."""
COARSER = 4
"""Each level of a large photo is this many times smaller than the one before."""
TURNED = 0.67
"""Turned looks at photos of up to TILED times `align.detector_side` are this much smaller: four looks at full size
would take more than three times as long as one. A turned face of 24 px is found there as an upright one of 16 px is; in
larger photos nothing is shrunk."""
TILED = 2
"""Photos longer than this many times `align.detector_side` are looked at turned in their own size too."""


class Proposer:
    """Photo in, what may be faces out. The network is made on first use, never pickled. Raises WeightsError then."""

    def __init__(self, config: AlignConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self._network: OnnxNetwork | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "dtype": self.dtype, "_network": None}

    def whole(self, rgb: Rgb, threshold: float, quarters: Sequence[int]) -> Iterator[Detection]:
        """Faces above `threshold` in the whole photo, turned by each of these quarters (0 to 3)."""
        for scale in scales(rgb.shape, self.config.detector_side):
            upright, small = _resized(rgb, scale) if 0 in quarters else rgb, _resized(rgb, scale * TURNED)
            for quarter in quarters:
                seen = small if quarter else upright
                yield from self._seen(seen, quarter, (0, 0), rgb.shape, seen.shape, threshold)

    def tiled(self, rgb: Rgb, threshold: float) -> Iterator[Detection]:
        """Faces above `threshold` in a photo larger than `align.detector_side`, at its own size and at coarser ones, in
        all four orientations. Nothing for smaller photos."""
        level, side = rgb, self.config.detector_side
        while max(level.shape[:2]) > side:
            whole = max(rgb.shape[:2]) > TILED * side
            for quarter in range(4):
                seen = level if whole or quarter == 0 else _resized(level, TURNED)
                for y, x in _tiles(seen.shape):
                    tile = seen[y : y + TILE, x : x + TILE]
                    yield from self._seen(tile, quarter, (x, y), rgb.shape, seen.shape, threshold)
            level = np.asarray(Image.fromarray(level).reduce(COARSER))

    def boxes(self, crops_N: list[Rgb], threshold: float) -> list[tuple[Array, Array, Array]]:
        """For each of some crops of one size: boxes (M, 4), scores (M,), points (M, 5, 2), in pixels of the crop."""
        outputs = self.network(np.stack([padded(crop) for crop in crops_N]))
        return [decode([output[i : i + 1] for output in outputs], threshold) for i in range(len(crops_N))]

    def _seen(
        self, image: Rgb, quarter: int, corner: tuple[int, int], shape: tuple[int, ...], level: tuple[int, ...],
        threshold: float,
    ) -> Iterator[Detection]:  # fmt: skip
        """Faces of a part of a photo, whose corner lies at (x, y) of the photo at another size (`level`), turned."""
        boxes, scores, points = self.boxes([np.ascontiguousarray(np.rot90(image, quarter))], threshold)[0]
        ratio = np.array([shape[1] / level[1], shape[0] / level[0]], np.float32)
        for box, score, five in zip(boxes, scores, points, strict=True):
            middle = (_unturned((box[:2] + box[2:]) / 2, quarter, image.shape) + np.array(corner, np.float32)) * ratio
            half = (box[2:] - box[:2]) / 2 * (ratio if quarter % 2 == 0 else ratio[::-1])
            where = (_unturned(five, quarter, image.shape) + np.array(corner, np.float32)) * ratio
            yield Detection(np.concatenate([middle - half, middle + half]), float(score), where, 90.0 * quarter)

    @property
    def network(self) -> OnnxNetwork:
        """CenterFace, made on first use, in `dtype`."""
        if self._network is None:
            self._network = OnnxNetwork(read_centerface(), self.dtype, ANY_RGB)
        return self._network


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Top left corners (y, x) of tiles that cover a picture and share SHARED pixels with their neighbours, or more."""

    def starts(side: int) -> list[int]:
        count = max(1, -(-(side - SHARED) // (TILE - SHARED)))
        return [round(i * max(0, side - TILE) / max(1, count - 1)) for i in range(count)]

    for y in starts(shape[0]):
        for x in starts(shape[1]):
            yield y, x


def _unturned(xy: NDArray[np.floating], quarter: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Points (..., 2) of a picture turned by `quarter` quarters against the clock, in the picture of `shape`."""
    x, y = xy[..., 0], xy[..., 1]
    h, w = shape[:2]
    turned = ((x, y), (w - y, x), (w - x, h - y), (y, h - x))[quarter]
    return np.stack(turned, -1).astype(np.float32)


def _resized(rgb: Rgb, scale: float) -> Rgb:
    h, w = (max(1, round(side * scale)) for side in rgb.shape[:2])
    if (h, w) == rgb.shape[:2]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((w, h), Image.Resampling.BILINEAR))
