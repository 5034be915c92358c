"""The pixels of a picture file: upright, sRGB, 8 bits. `images.load_photo` is what others call.

Imported by the process that reads strangers' files (`sandbox`): few modules.
"""

from __future__ import annotations

import functools
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from anonymousnet.data.blocks import UNKNOWN, Blocks, blocks_of
from anonymousnet.data.child import allow_seconds
from anonymousnet.data.colour import to_srgb, white_is_zero
from anonymousnet.data.scans import check_scans
from anonymousnet.errors import (
    EmptyImage,
    ImageError,
    ImageTooLarge,
    StorageError,
    TruncatedImage,
    UnreadableImage,
)

# Only these: Pillow's other decoders (EPS starts Ghostscript) are a hazard with strangers' files. AVIF before HEIF:
# files of brand mif1 may be either, and only AVIF's decoder tells at once.
_DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
_HEIF_BRANDS = frozenset({
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
})  # fmt: skip
SECONDS, PIXELS_PER_SECOND = 10, 2_000_000
"""CPU seconds that any photo may take to decode, and pixels for which one more is allowed: JPEG 2000 needs them."""
_FORMATS_READ = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, JPEG 2000 or PPM"
_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo: upright, sRGB, 8 bits per channel."""

    rgb: np.ndarray
    """uint8 of shape (H, W, 3)."""
    alpha: np.ndarray | None
    """uint8 of shape (H, W), 255 opaque; None where the source has no transparency."""
    format: str
    """Pillow's name of the source's format, e.g. "JPEG"; "PNG" for arrays."""
    blocks: Blocks = UNKNOWN
    """Where the file's blocks lie."""
    later_frames: bool = False
    """Whether the file holds more frames or pages than this one; they are left out."""


def answer(stream: BinaryIO, name: str, max_pixels: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """`decode_file` as a task of `sandbox`: what `images` makes a Photo of again."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # threads reserve memory, and every worker has a processor of its own
    photo = decode_file(stream, name, max_pixels, lambda pixels: allow_seconds(seconds_for(pixels)))
    told = {
        "shape": photo.rgb.shape[:2], "alpha": photo.alpha is not None, "format": photo.format,
        "size": photo.blocks.size, "origin": photo.blocks.origin, "later_frames": photo.later_frames,
    }  # fmt: skip
    return told, [np.ascontiguousarray(one) for one in (photo.rgb, photo.alpha) if one is not None]


def seconds_for(pixels: int) -> int:
    """CPU seconds that a picture of so many pixels may take to decode."""
    return SECONDS + pixels // PIXELS_PER_SECOND


def decode_file(
    stream: BinaryIO, name: str, max_pixels: int, opened: Callable[[int], None] = lambda pixels: None
) -> Photo:
    """Decode an open file, from where it stands; `opened` is told how many pixels there will be.

    Raises ImageError, StorageError, MemoryError.
    """
    head = stream.read(12)
    if not head:
        raise EmptyImage(f"{name}: expected a picture, found 0 bytes; copy the file again")
    if head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS:
        try:
            _register_heif()
        except ImportError as error:
            raise UnreadableImage(
                f"{name}: expected a decoder for HEIC, found none ({error}); run `pip install pillow-heif`"
            ) from None
    try:
        if head.startswith(b"\xff\xd8"):
            check_scans(stream, name)
        stream.seek(0)
        with _pillow_limit(max_pixels):
            Image.init()
            image = Image.open(stream, formats=[kind for kind in _DECODERS if kind in Image.OPEN])
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders fed damaged files raise nearly anything
        raise _explain(error, name, max_pixels, stream) from error
    opened(image.width * image.height)
    with image:
        return decode_image(image, name, max_pixels, stream)


@functools.cache
def _register_heif() -> None:
    """Give Pillow a decoder for HEIC, once one is needed. Raises ImportError where none is installed."""
    import pillow_heif

    # Small, depth and auxiliary pictures beside the photo are never asked for: they are not even parsed.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Keep Pillow's own bomb check from refusing what `max_pixels` allows, while a header is read.

    Below Pillow's limit (the default) nothing global is touched: our own, stricter check does the work.
    """
    if Image.MAX_IMAGE_PIXELS is None or max_pixels <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _pillow_limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode_image(image: Image.Image, name: str, max_pixels: int, stream: BinaryIO | None) -> Photo:
    """Header to pixels; `stream` is where they come from, to tell a cut file from a damaged one.

    Raises ImageError, StorageError, MemoryError.
    """
    check_size(image.width, image.height, name, max_pixels)
    kind = image.format or "PNG"
    try:
        image.load()
        check_size(image.width, image.height, name, max_pixels)  # HEIC's decoder may find another than its header says
        blocks, reversed_grey = blocks_of(image), white_is_zero(image)
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF says nothing about orientation
            upright = image.copy()
        rgb, alpha = to_srgb(upright, name, reversed_grey)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise _explain(error, name, max_pixels, stream) from error
    # MPO: a phone's JPEG with more behind it
    return Photo(rgb, alpha, "JPEG" if kind == "MPO" else kind, blocks, _has_more(image, stream))


def _has_more(image: Image.Image, stream: BinaryIO | None) -> bool:
    """Whether a decoded file holds further frames or pages. They are not counted: that would read the whole file."""
    if stream is None:
        return False  # a caller's own picture: it took the frame it wants, and looking further would move it
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # something is there, though no frame
        return True


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise ImageTooLarge for more pixels than the limit, EmptyImage for none."""
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{name}: {width}x{height} is {width * height} pixels, the limit is {max_pixels}; shrink it or "
            "raise align.max_pixels"
        )
    if width * height == 0:
        raise EmptyImage(f"{name}: expected at least one pixel, found {width}x{height}; export it again")


def _explain(error: Exception, name: str, max_pixels: int, stream: BinaryIO | None) -> Exception:
    """Pillow's many exceptions, as one of ours."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageTooLarge(
            f"{name}: more pixels than the limit of {max_pixels}; shrink the photo or raise align.max_pixels"
        )
    if isinstance(error, OSError) and error.errno is not None:  # the disk's own error, not the decoder's
        return StorageError(f"cannot read {name}: {error.strerror}; check the disk and run again")
    if isinstance(error, (EOFError, struct.error)) or "truncat" in str(error).lower() or _is_cut(stream):
        return TruncatedImage(f"{name}: the file stops before its picture does; copy or download it again")
    if isinstance(error, UnidentifiedImageError):
        return UnreadableImage(f"{name}: expected {_FORMATS_READ}, found something else; convert it first")
    said = " ".join(str(error).split())
    return UnreadableImage(f"{name}: the picture is damaged ({said}); export it again")


def _is_cut(stream: BinaryIO | None) -> bool:
    """Whether a file that begins as a picture lacks its format's end."""
    if stream is None or stream.closed:
        return False
    stream.seek(0)
    head = stream.read(12)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 64))
    tail = stream.read()
    if head.startswith(b"RIFF"):  # WebP states its length
        return size < 12 or int.from_bytes(head[4:8], "little") + 8 > size
    ends = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND", b"GIF8": b"\x3b"}
    return any(head.startswith(start) and end not in tail for start, end in ends.items())
