"""Photos as users have them -> upright 8-bit RGB, and back to files that carry nothing but pixels."""

from __future__ import annotations

import functools
import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anonymousnet.data.blocks import UNKNOWN, Blocks, blocks_of
from anonymousnet.data.colour import eight_bits, to_srgb, white_is_zero
from anonymousnet.data.content import FIRST_BYTES, is_picture
from anonymousnet.data.paths import resolve_path
from anonymousnet.data.scans import check_scans
from anonymousnet.data.store import open_regular
from anonymousnet.errors import (
    ConfigError,
    EmptyImage,
    ImageError,
    ImageTooLarge,
    StorageError,
    TruncatedImage,
    UnreadableImage,
)

PHOTO_SUFFIXES: frozenset[str] = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip
"""Lower-case file suffixes that `find_photos` takes for pictures."""

# Only these: Pillow's other decoders (EPS starts Ghostscript) are a hazard with strangers' files. AVIF before HEIF:
# files of brand mif1 may be either, and only AVIF's decoder tells at once.
_DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "PNG": 2**31 - 1}
_HEIF_BRANDS = frozenset({
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
})  # fmt: skip
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


def load_photo(source: str | Path | bytes | Image.Image | np.ndarray, max_pixels: int = 64_000_000) -> Photo:
    """Decode a path, the bytes of a file, a Pillow image or an array.

    Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); bool, uint8, uint16, or float in [0, 1]. EXIF
    orientation is applied, an embedded colour profile is converted to sRGB, 16 bits are scaled to 8, of
    animations the first frame is taken, of documents the first page. Raises EmptyImage, UnreadableImage,
    TruncatedImage, ImageTooLarge and TooManyScans (both known before any pixel is decoded) or StorageError (the file
    cannot be opened, or is none: a folder, a pipe, a device).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, "image", max_pixels, None)
    if isinstance(source, bytes):
        return _from_stream(io.BytesIO(source), f"{len(source)} bytes", max_pixels)
    try:
        with open_regular(resolve_path(source)) as stream:
            return _from_stream(stream, str(source), max_pixels)
    except OSError as error:
        raise StorageError(f"cannot read {source}: {error.strerror}; check path and rights") from error
    except ConfigError as error:
        raise StorageError(f"cannot read {str(source)!r}: {error}; check the path") from error


def encode_photo(photo: Photo, format: Literal["same", "jpeg", "png"], quality: int) -> tuple[bytes, str]:
    """Encode to (bytes, suffix such as ".jpg"); the same photo always gives the same bytes.

    `format` is ReleaseConfig's; `same` keeps JPEG, PNG and WebP, all else becomes PNG, as does a picture too
    long for its format. No metadata of any kind is written. PNG and WebP keep alpha; JPEG lays the photo on
    white. `quality`, 1 to 100, is for JPEG (4:4:4) and WebP.
    """
    kind = photo.format if format == "same" else format.upper()
    if kind not in _SUFFIX or max(photo.rgb.shape[:2]) > _LONGEST_SIDE[kind]:
        kind = "PNG"
    image = Image.fromarray(np.ascontiguousarray(photo.rgb))  # built from pixels alone: no metadata to strip
    if photo.alpha is not None:
        alpha = Image.fromarray(np.ascontiguousarray(photo.alpha))
        if kind == "JPEG":
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        else:
            image.putalpha(alpha)
    out = io.BytesIO()
    if kind == "JPEG":
        image.save(out, "JPEG", quality=quality, subsampling=0)
    elif kind == "WEBP":
        image.save(out, "WEBP", quality=quality, method=4)
    else:
        image.save(out, "PNG")
    return out.getvalue(), _SUFFIX[kind]


def find_photos(folder: Path) -> list[Path]:
    """Every file below `folder` with a picture's suffix, or with none and a picture's first bytes, sorted.

    Hidden files and folders, pipes, sockets and devices are skipped. Linked folders are not entered; linked files count
    only if they lie inside `folder`. Raises StorageError when something in it cannot be listed or looked at.
    """

    def refuse(error: OSError) -> None:
        raise StorageError(
            f"cannot list {error.filename}: {error.strerror or error}; give a folder that you may read"
        ) from error

    found, inside = [], Path(folder).resolve()
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(here, name)
            if name.startswith(".") or (path.suffix and path.suffix.lower() not in PHOTO_SUFFIXES):
                continue
            try:
                # By its kind alone: to open a pipe is to wait for ever.
                if not path.is_file() or (path.is_symlink() and not path.resolve().is_relative_to(inside)):
                    continue
                if path.suffix or _begins_as_picture(path):
                    found.append(path)
            except OSError as error:
                refuse(error)
    return sorted(found)


def _begins_as_picture(path: Path) -> bool:
    with open_regular(path) as stream:
        return is_picture(stream.read(FIRST_BYTES))


def _from_stream(stream: BinaryIO, name: str, max_pixels: int) -> Photo:
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
    except ImageError:
        raise
    except Exception as error:  # decoders fed damaged files raise nearly anything
        raise _explain(error, name, max_pixels, stream) from error
    with image:
        return _decode(image, name, max_pixels, stream)


@functools.cache
def _register_heif() -> None:
    """Give Pillow a decoder for HEIC, once one is needed. Raises ImportError where none is installed."""
    import pillow_heif

    # Small, depth and auxiliary pictures beside the photo are never asked for: they are not even parsed.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


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


def _decode(image: Image.Image, name: str, max_pixels: int, stream: BinaryIO | None) -> Photo:
    """Header to pixels; `stream` is where they come from, to tell a cut file from a damaged one."""
    _check_size(image.width, image.height, name, max_pixels)
    kind = image.format or "PNG"
    try:
        image.load()
        _check_size(image.width, image.height, name, max_pixels)  # HEIC's decoder may find another than its header says
        blocks, reversed_grey = blocks_of(image), white_is_zero(image)
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF says nothing about orientation
            upright = image.copy()
        rgb, alpha = to_srgb(upright, name, reversed_grey)
    except ImageError:
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


def _from_array(array: np.ndarray, max_pixels: int) -> Photo:
    name = f"array of shape {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UnreadableImage(f"{name}: expected (H, W) or (H, W, 1 or 3 or 4); move channels last")
    if array.size == 0:
        raise EmptyImage(f"{name}: expected at least one pixel, found none; check how it was cut")
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = eight_bits(array if array.ndim == 3 else array[..., None], name)
    alpha = array[..., 3].copy() if array.shape[2] == 4 else None
    rgb = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3].copy()
    return Photo(rgb, alpha, "PNG")


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
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
