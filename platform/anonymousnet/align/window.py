"""A square of a photo, cut out in any orientation, and what was seen in it put back into the photo."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anonymousnet.align.detect import Detection
from anonymousnet.align.warp import Matrix, Rgb


class Window:
    """A square of a photo about one point, that can be cut out in any orientation; beyond the photo it is black."""

    def __init__(self, rgb: Rgb, middle: NDArray[np.floating], side: float, px: int) -> None:
        self.middle, self.side, self.px = middle, side, px
        reach = side * 2**0.5 / 2 + 2
        h, w = rgb.shape[:2]
        x0, y0 = (int(v) for v in np.clip(np.floor(middle - reach), 0, (w - 1, h - 1)))
        x1, y1 = (int(v) for v in np.clip(np.ceil(middle + reach), (x0 + 1, y0 + 1), (w, h)))
        image = Image.fromarray(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
        self.block = max(1, int(side / px))
        self.image, self.corner = image.reduce(self.block) if self.block > 1 else image, (x0, y0)

    def crop(self, turn: float) -> Rgb:
        """(px, px, 3): the square, turned upright for a face that is turned by `turn` degrees."""
        to_photo = self._matrix(turn)
        to_photo[:, 2] -= self.corner
        data = tuple((to_photo / self.block).ravel().tolist())
        size = (self.px, self.px)
        return np.asarray(self.image.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))

    def seen(self, answer: tuple[NDArray[np.float32], ...], turn: float) -> list[Detection]:
        """What the network saw in such a crop, in the photo; best first."""
        matrix, out = self._matrix(turn), []
        boxes, scores, points = answer
        for i in np.argsort(-scores, kind="stable"):
            box = boxes[i].astype(np.float64)
            middle = matrix[:, :2] @ ((box[:2] + box[2:]) / 2) + matrix[:, 2]
            half = (box[2:] - box[:2]) / 2 * (self.side / self.px)
            five = points[i] @ matrix[:, :2].T + matrix[:, 2]
            where = np.concatenate([middle - half, middle + half]).astype(np.float32)
            out.append(Detection(where, float(scores[i]), five.astype(np.float32), float(turn)))
        return out

    def _matrix(self, turn: float) -> Matrix:
        """(2, 3) from pixels of the crop to pixels of the photo."""
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        linear = np.array([[c, -s], [s, c]]) * (self.side / self.px)
        return np.concatenate([linear, (self.middle - linear @ np.full(2, self.px / 2))[:, None]], 1)
