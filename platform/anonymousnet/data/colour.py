"""Whatever a picture's channels mean (profile, depth, white is zero) -> sRGB with 8 bits per channel."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image, ImageCms, TiffTags

from anonymousnet.errors import UnreadableImage

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> Pillow's mode of the pixels that it describes."""
_GREY = ("1", "L", "LA", "La")
_PHOTOMETRIC = next(tag for tag, info in TiffTags.TAGS_V2.items() if info.name == "PhotometricInterpretation")
_KNOWN_PROFILES = 256
_known: dict[bytes, str | None] = {}
"""SHA-256 of a profile -> what `_describes` says of it: most photos of a job come from a few cameras."""


def white_is_zero(image: Image.Image) -> bool:
    """Whether a decoded TIFF's grey still has to be turned round: Pillow does so itself, but not for over 8 bits."""
    deep = image.mode.startswith(("I", "F"))
    return deep and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def to_srgb(image: Image.Image, name: str, reversed_grey: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """A decoded picture of any mode -> rgb, uint8 (H, W, 3), and alpha, uint8 (H, W), 255 opaque, or None.

    `reversed_grey`: what `white_is_zero` said of it, before it was turned upright and its TIFF tags were lost.
    An embedded profile is applied by its curves and primaries, with and without alpha alike; where it changes nothing
    the pixels stay as they are. Raises UnreadableImage when a deep picture's values are out of range.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        grey_hw = _from_deep(image, name)
        return np.array(_converted(Image.fromarray(255 - grey_hw if reversed_grey else grey_hw), profile)), None
    alpha, grey = None, image.mode in _GREY
    if image.has_transparency_data:
        # Grey stays grey: a profile of grey describes one channel, and would not fit three.
        image = image.convert("LA" if grey else "RGBA")
        alpha = np.array(image.getchannel("A"))
        image = image.getchannel("L") if grey else image.convert("RGB")
    elif grey:
        image = image.convert("L")
    elif image.mode not in ("RGB", "CMYK"):
        image = image.convert("RGB")
    return np.array(_converted(image, profile)), alpha


def eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """bool, uint8, uint16 or float in [0, 1] -> uint8 over the full range, rounded to nearest.

    Raises UnreadableImage for floats outside [0, 1], NaN and any other type.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        table = ((np.arange(65_536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
        return np.take(table, array)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:  # false for NaN
            return np.rint(array * np.float32(255)).astype(np.uint8)
        raise UnreadableImage(
            f"{name}: expected floats in [0, 1], found [{low:g}, {high:g}]; divide by the largest possible"
        )
    raise UnreadableImage(f"{name}: expected bool, uint8, uint16 or float, found {array.dtype}; convert it")


def _from_deep(image: Image.Image, name: str) -> np.ndarray:
    """Greyscale of 16 bits (or 32 in Pillow's hands) or float -> uint8 (H, W); Pillow itself would clip."""
    grey = np.asarray(image)
    if image.mode == "I":
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65_535:
            raise UnreadableImage(
                f"{name}: expected 16-bit greyscale (0 to 65535), found {low} to {high}; save it with 16 bits"
            )
        grey = grey.astype(np.uint16)
    return eight_bits(grey, name)


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, L or CMYK, read through its embedded profile if that is usable and fits, as RGB."""
    described = _describes(profile) if profile else None
    if described == "RGB" and image.mode == "L":
        image = image.convert("RGB")  # cameras write one profile whether their photo is grey or not
    if profile and described == image.mode:
        try:
            return _through(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # its curves are usable, but not for this picture
    return image.convert("RGB")


def _describes(profile: bytes) -> str | None:
    """The mode whose pixels a profile changes: RGB, L or CMYK; None where it is unusable or changes nothing.

    What a profile calls itself is not asked: "Linear sRGB" is not sRGB, and much that is has another name.
    """
    digest = hashlib.sha256(profile).digest()
    if digest not in _known:
        if len(_known) >= _KNOWN_PROFILES:
            _known.clear()
        _known[digest] = _tried(profile)
    return _known[digest]


def _tried(profile: bytes) -> str | None:
    """`_describes`, found by sending colours through the profile."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
        mode = _MODES.get(space)
        if mode is None:
            return None
        colours = _colours(mode)
        seen = np.asarray(_through(colours, profile), np.int16)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # damaged: every viewer ignores it too
    if mode == "CMYK":
        return mode  # never the same thing as sRGB
    # One level is what rounding does to sRGB on its way through sRGB.
    return None if np.abs(seen - np.asarray(colours.convert("RGB"), np.int16)).max() <= 1 else mode


def _colours(mode: str) -> Image.Image:
    """Colours to try a profile on: all greys, all shades of each primary, and a lattice of 17^3."""
    if mode == "CMYK":
        return Image.new("CMYK", (1, 1))
    ramp = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(ramp[None])
    shades = [ramp[:, None] * np.array(primary, np.uint8) for primary in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    return Image.fromarray(np.concatenate([*shades, lattice])[None])


def _through(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB. Raises PyCMSError when the profile is damaged or made for another mode."""
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
    if converted is None:
        raise ValueError("nothing was converted")
    return converted
