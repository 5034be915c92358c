"""Where the blocks lie in which a photo's file was coded: what is in one pixel of a block tells of all its others."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ExifTags, Image


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a photo's file was coded: blocks of pixels, in the upright photo's own coordinates."""

    size: tuple[int, int] = (16, 16)
    """Width and height in pixels."""
    origin: tuple[int, int] = (0, 0)
    """x and y of the corner of a block; turned photos have theirs where the file's corner came to lie."""

    @property
    def first(self) -> tuple[int, int]:
        """x and y, 0 or less, of the block that holds the photo's first pixel."""
        x, y = ((at % side) - side if at % side else 0 for at, side in zip(self.origin, self.size, strict=True))
        return x, y


UNKNOWN = Blocks()
"""Those of JPEG: most photos were JPEG once."""


def blocks_of(image: Image.Image) -> Blocks:
    """Where the blocks of a decoded file, not yet turned, come to lie once it is turned upright. Never raises."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF says nothing about orientation
        orientation = 1
    layers = getattr(image, "layer", None) or ()  # of JPEG: (component, horizontal and vertical sampling, table)
    size = [max(16, 8 * max((layer[i] for layer in layers), default=1)) for i in (1, 2)]
    width, height = image.size
    if orientation >= 5:  # the file's rows are the photo's columns
        size.reverse()
        width, height = height, width
    x = width % size[0] if orientation in (2, 3, 6, 7) else 0
    y = height % size[1] if orientation in (3, 4, 7, 8) else 0
    return Blocks((size[0], size[1]), (x, y))
