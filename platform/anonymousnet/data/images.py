"""Photos as users have them -> upright 8-bit RGB, and back to files that carry nothing but pixels."""

from __future__ import annotations

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
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from anonymousnet.data.paths import resolve_path
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
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm",
})  # fmt: skip
"""Lower-case file suffixes that `find_photos` takes for pictures."""

# Only these: Pillow's other decoders (EPS starts Ghostscript) are a hazard with strangers' files.
_DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "JPEG2000", "PPM")
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "PNG": 2**31 - 1}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_FORMATS_READ = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, JPEG 2000 or PPM"
_pillow_limit_lock = threading.Lock()


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


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo: upright, sRGB, 8 bits per channel."""

    rgb: np.ndarray
    """uint8 of shape (H, W, 3)."""
    alpha: np.ndarray | None
    """uint8 of shape (H, W), 255 opaque; None where the source has no transparency."""
    format: str
    """Pillow's name of the source's format, e.g. "JPEG"; "PNG" for arrays."""
    blocks: Blocks = Blocks()
    """Where the file's blocks lie; those of JPEG where nothing is known, since most photos were JPEG once."""


def load_photo(source: str | Path | bytes | Image.Image | np.ndarray, max_pixels: int = 64_000_000) -> Photo:
    """Decode a path, the bytes of a file, a Pillow image or an array.

    Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); bool, uint8, uint16, or float in [0, 1]. EXIF
    orientation is applied, an embedded colour profile is converted to sRGB, 16 bits are scaled to 8, of
    animations the first frame is taken. Raises EmptyImage, UnreadableImage, TruncatedImage, ImageTooLarge
    (known from the header, before any pixel is decoded) or StorageError (the file cannot be opened).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, "image", max_pixels, None)
    if isinstance(source, bytes):
        return _from_stream(io.BytesIO(source), f"{len(source)} bytes", max_pixels)
    try:
        with open(resolve_path(source), "rb") as stream:
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
    """Every file below `folder` with a picture's suffix, sorted; hidden files and folders are skipped.

    Linked folders are not entered; linked files count only if they lie inside `folder`. Raises StorageError
    when `folder`, or a folder in it, cannot be listed.
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
            if name.startswith(".") or path.suffix.lower() not in PHOTO_SUFFIXES:
                continue
            if not path.is_symlink() or (path.is_file() and path.resolve().is_relative_to(inside)):
                found.append(path)
    return sorted(found)


def _from_stream(stream: BinaryIO, name: str, max_pixels: int) -> Photo:
    head = stream.read(12)
    if not head:
        raise EmptyImage(f"{name}: expected a picture, found 0 bytes; copy the file again")
    if head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS:
        try:
            import pillow_heif  # registers a decoder with Pillow, only once one is needed

            pillow_heif.register_heif_opener()
        except ImportError:
            raise UnreadableImage(
                f"{name}: no decoder for HEIC is installed; run `pip install anonymousnet[heic]`"
            ) from None
    stream.seek(0)
    try:
        with _pillow_limit(max_pixels):
            Image.init()
            image = Image.open(stream, formats=[kind for kind in _DECODERS if kind in Image.OPEN])
    except Exception as error:  # decoders fed damaged files raise nearly anything
        raise _explain(error, name, max_pixels, stream) from error
    with image:
        return _decode(image, name, max_pixels, stream)


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
        blocks = _blocks(image)
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF says nothing about orientation
            image = image.copy()
        deep = image.mode.startswith(("I", "F"))
        rgb, alpha = (_from_deep(image, name), None) if deep else _from_8_bits(image)
    except ImageError:
        raise
    except Exception as error:
        raise _explain(error, name, max_pixels, stream) from error
    # MPO: a phone's JPEG with more behind it
    return Photo(rgb, alpha, "JPEG" if kind == "MPO" else kind, blocks)


def _blocks(image: Image.Image) -> Blocks:
    """Where the blocks of a decoded file come to lie once it is turned upright."""
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


def _from_8_bits(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Any mode with up to 8 bits -> rgb (H, W, 3), alpha (H, W) or None."""
    alpha, profile = None, image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
        image = image.convert("RGB")
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    return np.array(_to_srgb(image, profile)), alpha


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, L or CMYK, read through its embedded colour profile if it has a usable one, as RGB."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # Most photos say sRGB; leaving those alone keeps their pixels exact.
            if "srgb" not in ImageCms.getProfileDescription(source).lower():
                srgb = ImageCms.createProfile("sRGB")
                return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # damaged, or made for another colour space: every viewer ignores it too
    return image.convert("RGB")


def _from_deep(image: Image.Image, name: str) -> np.ndarray:
    """Greyscale of 16 bits (or 32 in Pillow's hands) or float -> (H, W, 3); Pillow itself would clip."""
    grey = np.asarray(image)
    if image.mode == "I":
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65_535:
            raise UnreadableImage(
                f"{name}: expected 16-bit greyscale (0 to 65535), found {low} to {high}; save it with 16 bits"
            )
        grey = grey.astype(np.uint16)
    return np.repeat(_eight_bits(grey, name)[..., None], 3, axis=2)


def _from_array(array: np.ndarray, max_pixels: int) -> Photo:
    name = f"array of shape {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UnreadableImage(f"{name}: expected (H, W) or (H, W, 1 or 3 or 4); move channels last")
    if array.size == 0:
        raise EmptyImage(f"{name}: expected at least one pixel, found none; check how it was cut")
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = _eight_bits(array if array.ndim == 3 else array[..., None], name)
    alpha = array[..., 3].copy() if array.shape[2] == 4 else None
    rgb = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3].copy()
    return Photo(rgb, alpha, "PNG")


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """bool, uint8, uint16 or float in [0, 1] -> uint8 over the full range, rounded to nearest."""
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
