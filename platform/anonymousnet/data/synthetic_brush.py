"""What synthetic faces are painted with: anti-aliased layers, soft masks, smooth curves, colours."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

_SKIN = np.array([[255, 222, 200], [243, 198, 168], [226, 172, 134], [190, 130, 96], [134, 88, 62], [88, 58, 44]])
_HAIR: dict[str, tuple[Colour, Colour]] = {
    "Black_Hair": ((20, 17, 18), (44, 36, 36)),
    "Brown_Hair": ((74, 46, 28), (118, 78, 48)),
    "Blond_Hair": ((196, 156, 92), (236, 208, 144)),
    "Gray_Hair": ((128, 126, 126), (206, 204, 202)),
}
_OTHER_HAIR: tuple[Colour, Colour] = ((52, 32, 24), (134, 62, 32))
_IRIS = np.array([[62, 40, 26], [88, 58, 34], [104, 96, 50], [92, 122, 148], [120, 140, 150]])


class Layer:
    """A transparent picture drawn `fine` times too large and shrunk once, which anti-aliases every edge."""

    def __init__(self, size: tuple[int, int], fine: int) -> None:
        # RGBa, premultiplied, shrinks without first being converted at its full size.
        self._image, self._fine = Image.new("RGBa", (size[0] * fine, size[1] * fine), (0, 0, 0, 0)), fine
        self._draw = ImageDraw.Draw(self._image)

    def _points(self, points: np.ndarray) -> list[float]:
        return [float(v) for v in ((points + 0.5) * self._fine - 0.5).ravel()]

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Fill the polygon of (N, 2) pixels."""
        self._draw.polygon(self._points(points), fill=(*colour, 255))

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """A line of `width` pixels through (N, 2) pixels."""
        width = max(1, round(width * self._fine))
        self._draw.line(self._points(points), fill=(*colour, 255), width=width, joint="curve" if width > 4 else None)

    def picture(self) -> Image.Image:
        """RGBA at the final size."""
        return self._image.reduce(self._fine).convert("RGBA")


class Soft:
    """A blurred mask, to lay shadow, light or colour on. What was never drawn on costs nothing."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._mask = Image.new("L", size, 0)
        self._draw = ImageDraw.Draw(self._mask)
        self._touched: list[np.ndarray] = []

    def fill(self, points: np.ndarray, strength: float) -> Soft:
        """Fill a polygon of (N, 2) pixels; `strength` 0 to 1 replaces what was there."""
        self._touched.append(points)
        self._draw.polygon([float(v) for v in points.ravel()], fill=round(255 * strength))
        return self

    def line(self, points: np.ndarray, strength: float, width: float) -> Soft:
        """A line of `width` pixels."""
        self._touched.append(points)
        flat = [float(v) for v in points.ravel()]
        self._draw.line(flat, fill=round(255 * strength), width=max(1, round(width)))
        return self

    def onto(self, picture: Image.Image, colour: Colour, blur: float, texture: Image.Image | None = None) -> None:
        """Paint `colour` onto the RGB `picture` through the mask blurred by `blur` pixels."""
        if not self._touched:
            return
        points = np.concatenate(self._touched)
        margin = 3 * blur + 3
        left, top = np.maximum(0, points.min(axis=0) - margin).astype(int)
        right, bottom = np.minimum(self._mask.size, points.max(axis=0) + margin).astype(int)
        if left >= right or top >= bottom:
            return
        box = (int(left), int(top), int(right), int(bottom))
        mask = self._mask.crop(box).filter(ImageFilter.GaussianBlur(blur))
        if texture is not None:
            mask = ImageChops.multiply(mask, texture.crop(box))
        picture.paste(colour, box, mask)


def curve(points: np.ndarray, closed: bool = False, per: int = 6) -> np.ndarray:
    """A Catmull-Rom curve through (N, 2) points, `per` points for each of them."""
    p = np.asarray(points, float)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([ends[0], p, ends[1]])
    t = np.arange(per)[:, None, None] / per
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    segments = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    dense = segments.swapaxes(0, 1).reshape(-1, 2)
    return dense if closed else np.concatenate([dense, p[-2:-1]])


def xy(x: float, y: float) -> np.ndarray:
    """A shift, to add to points."""
    return np.array([x, y], float)


def ellipse(centre: tuple[float, float] | np.ndarray, a: float, b: float, power: float = 2.0) -> np.ndarray:
    """A (super)ellipse with half axes a and b as (28, 2) points."""
    angle = np.arange(28) * (2 * np.pi / 28)
    cos, sin = np.cos(angle), np.sin(angle)
    if power != 2:
        cos = np.sign(cos) * np.abs(cos) ** (2 / power)
        sin = np.sign(sin) * np.abs(sin) ** (2 / power)
    return np.stack([centre[0] + a * cos, centre[1] + b * sin], axis=1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` 0 gives `one`, 1 gives `other`."""
    r, g, b = (round(p + (q - p) * share) for p, q in zip(one, other, strict=True))
    return r, g, b


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    r, g, b = (min(255, max(0, round(v * factor))) for v in colour)
    return r, g, b


def skin_colour(melanin: float, ruddy: float, pale: bool) -> Colour:
    """From the lightest (0) to the darkest (1) skin."""
    colour = _along(_SKIN, melanin**1.25)
    colour = mix(colour, (235, 150, 130), 0.12 * ruddy)
    return mix(colour, (255, 234, 222), 0.5) if pale else colour


def hair_colour(value: float, has: frozenset[str]) -> Colour:
    """The named colour in one of its shades, 0 to 1; with no name dark brown to red."""
    low, high = next((_HAIR[name] for name in _HAIR if name in has), _OTHER_HAIR)
    return mix(low, high, value)


def iris_colour(value: float) -> Colour:
    """Mostly brown, some green, some blue."""
    return _along(_IRIS, value)


def _along(table: np.ndarray, value: float) -> Colour:
    at = value * (len(table) - 1)
    r, g, b = (round(float(np.interp(at, np.arange(len(table)), table[:, k]))) for k in range(3))
    return r, g, b
