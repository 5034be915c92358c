"""Photos as users have them -> upright 8-bit RGB, and back to files that carry nothing but pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from anonymousnet.data import sandbox
from anonymousnet.data.blocks import Blocks
from anonymousnet.data.colour import eight_bits
from anonymousnet.data.content import FIRST_BYTES, is_picture
from anonymousnet.data.decode import PIXELS_PER_SECOND, SECONDS, check_size, decode_image, seconds_for
from anonymousnet.data.decode import Photo as Photo
from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import open_regular
from anonymousnet.errors import (
    ConfigError,
    EmptyImage,
    ImageTooLarge,
    ImageTooSlow,
    StorageError,
    UnreadableImage,
)

PHOTO_SUFFIXES: frozenset[str] = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff",
    ".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip
"""Lower-case file suffixes that `find_photos` takes for pictures."""

MEMORY, MEMORY_PER_PIXEL = 1 << 30, 40
"""Bytes that decoding any photo may take, and for each pixel: the picture, its copy that is turned, what its decoder
keeps."""
_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "PNG": 2**31 - 1}


def load_photo(source: str | Path | bytes | Image.Image | np.ndarray, max_pixels: int = 64_000_000) -> Photo:
    """Decode a path, the bytes of a file, a Pillow image or an array.

    Arrays: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); bool, uint8, uint16, or float in [0, 1]. EXIF
    orientation is applied, an embedded colour profile is converted to sRGB, 16 bits are scaled to 8, of
    animations the first frame is taken, of documents the first page. Files are decoded in a process of its own, whose
    time and memory are bounded (`bounds`). Raises EmptyImage, UnreadableImage, TruncatedImage, ImageTooLarge and
    TooManyScans (both known before any pixel is decoded), ImageTooSlow, StorageError (the file cannot be opened, or is
    none: a folder, a pipe, a device) or MachineError (this machine starts no process).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return decode_image(source, "image", max_pixels, None)
    if isinstance(source, bytes):
        return _decoded(source, f"{len(source)} bytes", max_pixels)
    try:
        stream = open_regular(resolve_path(source))
    except OSError as error:
        raise StorageError(f"cannot read {source}: {error.strerror}; check path and rights") from error
    except ConfigError as error:
        raise StorageError(f"cannot read {str(source)!r}: {error}; check the path") from error
    with stream:
        return _decoded(stream, str(source), max_pixels)


def bounds(max_pixels: int) -> sandbox.Bounds:
    """What decoding one file may use, where photos of so many pixels are allowed: of 64 million, 42 s and 3.4 GiB.

    Once its header is read, a smaller photo may take less time (`decode.seconds_for`).
    """
    return sandbox.Bounds(seconds_for(max_pixels), MEMORY + MEMORY_PER_PIXEL * max_pixels)


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


def _decoded(source: BinaryIO | bytes, name: str, max_pixels: int) -> Photo:
    """An open file, or its bytes, decoded by another process within its bounds."""
    allowed = bounds(max_pixels)
    try:
        told, file = sandbox.ask("anonymousnet.data.decode:answer", source, allowed, name=name, max_pixels=max_pixels)
    except sandbox.Stopped as stopped:
        if stopped.why == "time":
            raise ImageTooSlow(
                f"{name}: expected to decode within {SECONDS} s of CPU time, and one for every {PIXELS_PER_SECOND} "
                f"pixels, found {stopped}; export it again"
            ) from stopped
        if stopped.why == "memory":
            raise ImageTooLarge(
                f"{name}: expected to decode within {allowed.memory >> 20} MiB of memory, found {stopped}; export it "
                "again"
            ) from stopped
        raise UnreadableImage(f"{name}: the picture breaks its decoder ({stopped}); export it again") from stopped
    with file:
        height, width = told["shape"]
        check_size(width, height, name, max_pixels)
        rgb = np.empty((height, width, 3), np.uint8)
        alpha = np.empty((height, width), np.uint8) if told["alpha"] else None
        for pixels in (rgb, alpha):
            if pixels is not None and file.readinto(memoryview(pixels).cast("B")) != pixels.nbytes:  # type: ignore[attr-defined, arg-type]
                raise UnreadableImage(f"{name}: the picture breaks its decoder (too few pixels); export it again")
    blocks = Blocks(tuple(told["size"]), tuple(told["origin"]))
    return Photo(rgb, alpha, told["format"], blocks, told["later_frames"])


def _from_array(array: np.ndarray, max_pixels: int) -> Photo:
    name = f"array of shape {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise UnreadableImage(f"{name}: expected (H, W) or (H, W, 1 or 3 or 4); move channels last")
    if array.size == 0:
        raise EmptyImage(f"{name}: expected at least one pixel, found none; check how it was cut")
    check_size(array.shape[1], array.shape[0], name, max_pixels)
    array = eight_bits(array if array.ndim == 3 else array[..., None], name)
    alpha = array[..., 3].copy() if array.shape[2] == 4 else None
    rgb = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3].copy()
    return Photo(rgb, alpha, "PNG")
