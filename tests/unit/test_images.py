import contextlib
import io
import resource
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from anonymousnet.data import decode
from anonymousnet.data.images import Photo, encode_photo, find_photos, load_photo
from anonymousnet.errors import (
    EmptyImage,
    ImageTooLarge,
    StorageError,
    TruncatedImage,
    UnreadableImage,
)

# Pillow warns about damaged files before it raises; only what is raised matters here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(width: int = 48, height: int = 32) -> np.ndarray:
    """Red, green / blue, white quarters: tells every orientation apart."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def noise(height: int = 120, width: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: Pillow cannot write 16-bit colour, nor a header that lies."""

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def middles(image: np.ndarray) -> np.ndarray:
    """Every eighth pixel, away from the borders between the quarters, as int."""
    return image[4:-4:8, 4:-4:8].astype(int)


# --- what users have ---


@pytest.mark.parametrize(
    ("kind", "exact"),
    [(kind, True) for kind in ("PNG", "BMP", "TIFF", "PPM")] + [(kind, False) for kind in ("JPEG", "WEBP", "AVIF")],
)
def test_formats(tmp_path: Path, kind: str, exact: bool) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(saved(corners(), kind, **({} if exact else {"quality": 95})))
    photo = load_photo(path)
    assert (photo.format, photo.alpha, photo.rgb.dtype) == (kind, None, np.uint8)
    assert np.abs(middles(photo.rgb) - middles(corners())).mean() <= (0 if exact else 6)
    assert np.array_equal(photo.rgb, load_photo(str(path)).rgb)
    assert np.array_equal(photo.rgb, load_photo(path.read_bytes()).rgb)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    undo: dict[int, Any] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.swapaxes(0, 1), 6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, 3),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](corners()))
    photo = load_photo(saved(stored, kind, exif=exif))
    assert photo.rgb.shape == (32, 48, 3)
    assert np.abs(middles(photo.rgb) - middles(corners())).max() < 40


def test_orientation_of_a_pillow_image_which_stays_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(saved(corners(), "PNG", exif=exif)))
    assert load_photo(image).rgb.shape == (48, 32, 3)
    assert image.size == (48, 32)
    assert image.getexif()[0x0112] == 6


def test_damaged_exif_is_ignored() -> None:
    data = saved(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert load_photo(data).rgb.shape == (32, 48, 3)


def test_alpha_is_kept_apart() -> None:
    rgba = np.dstack([corners(), np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1))])
    for source in (saved(rgba, "PNG"), Image.fromarray(rgba), rgba, rgba / np.float32(255)):
        photo = load_photo(source)
        assert np.array_equal(photo.rgb, rgba[..., :3])
        assert photo.alpha is not None
        assert np.array_equal(photo.alpha, rgba[..., 3])


def test_palette_with_transparency() -> None:
    image = Image.fromarray(corners()).quantize(4, method=Image.Quantize.FASTOCTREE)
    for kind in ("PNG", "GIF"):
        photo = load_photo(saved(image, kind, transparency=image.getpixel((0, 0))))
        assert photo.alpha is not None
        assert photo.alpha[0, 0] == 0
        assert photo.alpha[-1, -1] == 255
        assert np.abs(photo.rgb[-1, 0].astype(int) - BLUE).max() < 20


def test_grey_with_alpha_and_transparent_colours() -> None:
    la = Image.merge("LA", [Image.new("L", (4, 4), 100), Image.new("L", (4, 4), 7)])
    photo = load_photo(saved(la, "PNG"))
    assert photo.rgb[0, 0].tolist() == [100, 100, 100]
    assert photo.alpha is not None
    assert photo.alpha[0, 0] == 7
    keyed = load_photo(saved(corners(), "PNG", transparency=RED)).alpha
    assert keyed is not None
    assert keyed[0, 0] == 0
    assert keyed[-1, -1] == 255


def test_grey_and_one_bit() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(load_photo(saved(ramp, "PNG")).rgb, np.dstack([ramp] * 3))
    bits = Image.fromarray(ramp > 100)
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(load_photo(saved(bits, kind)).rgb[..., 0] == 255, ramp > 100)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert load_photo(data).rgb[0, 0].tolist() == [*RED], kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65_535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    photo = load_photo(saved(deep, kind))
    assert np.array_equal(photo.rgb[..., 0], np.rint(deep / 257).astype(np.uint8))
    assert (photo.rgb[0, 0, 1], photo.rgb[-1, -1, 2]) == (0, 255)


def test_16_bit_colour_is_scaled() -> None:
    deep = np.random.default_rng(1).integers(0, 65_536, (32, 32, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    photo = load_photo(png(32, 32, 16, 2, rows))
    assert np.abs(photo.rgb.astype(float) - deep / 257).max() <= 1  # Pillow keeps the high byte


def test_float_tiff() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(load_photo(saved(values, "TIFF")).rgb[..., 0], np.rint(values * 255))
    with pytest.raises(UnreadableImage, match=r"expected floats in \[0, 1\], found \[0, 900\]"):
        load_photo(saved(values * 900, "TIFF"))


def test_cmyk_jpeg_has_the_right_colours() -> None:
    cmyk = Image.fromarray(corners()).convert("CMYK")
    photo = load_photo(saved(cmyk, "JPEG", quality=95, subsampling=0))
    assert photo.format == "JPEG"
    assert np.abs(middles(photo.rgb) - middles(corners())).max() < 12


def test_ycck_jpeg_has_the_right_colours() -> None:
    # Pillow writes CMYK only: put YCC into its first three channels, and say so in the Adobe segment.
    cmyk = Image.fromarray(corners()).convert("CMYK")
    ycc = np.asarray(Image.merge("RGB", cmyk.split()[:3]).convert("YCbCr"))
    channels = np.dstack([255 - ycc, np.asarray(cmyk.getchannel("K"))])
    data = bytearray(saved(Image.fromarray(channels, "CMYK"), "JPEG", quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    assert np.abs(middles(load_photo(bytes(data)).rgb) - middles(corners())).max() < 12


def swapped_profile() -> bytes:
    """sRGB with red and green exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colour_profile_is_converted_and_dropped(kind: str) -> None:
    photo = load_photo(saved(corners(), kind, icc_profile=swapped_profile()))
    assert np.abs(photo.rgb[0, 0].astype(int) - GREEN).max() < 4
    assert np.abs(photo.rgb[0, -1].astype(int) - RED).max() < 4
    assert "icc_profile" not in Image.open(io.BytesIO(encode_photo(photo, "png", 95)[0])).info


def test_srgb_profile_keeps_pixels_exact_and_a_damaged_one_is_ignored() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"not a profile"):
        assert np.array_equal(load_photo(saved(noise(), "PNG", icc_profile=profile)).rgb, noise())


def test_phone_multi_picture_counts_as_jpeg() -> None:
    data = saved(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert load_photo(data).format == "JPEG"


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((2, 3), 7, np.uint8), 7),
        (np.full((2, 3, 1), 7, np.uint8), 7),
        (np.full((2, 3, 3), 65_535, np.uint16), 255),
        (np.full((2, 3, 3), 0x0180, ">u2"), 1),
        (np.full((2, 3, 3), 0.5, np.float32), 128),
        (np.full((2, 3), 1.0, np.float16), 255),
        (np.ones((2, 3), bool), 255),
    ],
)
def test_arrays(array: np.ndarray, pixel: int) -> None:
    photo = load_photo(array)
    assert photo.rgb.shape == (2, 3, 3)
    assert (photo.rgb.dtype, photo.format, photo.alpha) == (np.uint8, "PNG", None)
    assert (photo.rgb == pixel).all()
    array[...] = 0
    assert (photo.rgb == pixel).all(), "the photo must not change with the caller's array"


def test_heic_or_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    decode._register_heif.cache_clear()
    with pytest.raises(UnreadableImage, match=r"expected a decoder for HEIC, found none .*pip install pillow-heif"):
        decode.decode_file(io.BytesIO(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)), "", 64)


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (b"", EmptyImage, "0 bytes"),
        (b"hello, I am not a picture", UnreadableImage, "convert it first"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UnreadableImage, "convert it first"),
        (np.zeros((0, 5, 3), np.uint8), EmptyImage, "at least one pixel"),
        (np.zeros((5, 5, 2), np.uint8), UnreadableImage, "channels last"),
        (np.zeros((5,), np.uint8), UnreadableImage, "expected"),
        (np.zeros((5, 5), np.int64), UnreadableImage, "found int64"),
        (np.full((5, 5), np.nan), UnreadableImage, "found"),
        (np.full((5, 5), 255.0), UnreadableImage, "divide"),
        (np.zeros((9000, 9000), np.uint8), ImageTooLarge, "align.max_pixels"),
        ("/nowhere/a.jpg", StorageError, "No such file"),
        ("/tmp", StorageError, "directory"),
        ("a\0b.jpg", StorageError, "check the path"),
    ],
)
def test_errors_are_named_and_one_line(source: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        load_photo(source)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_truncated(kind: str, share: float) -> None:
    whole = saved(noise(), kind)
    if kind == "GIF" and share > 0.9:
        share = 0.9
    with pytest.raises((TruncatedImage, UnreadableImage)) as caught:
        load_photo(whole[: int(len(whole) * share)])
    if kind in ("JPEG", "PNG", "GIF", "WEBP"):
        assert type(caught.value) is TruncatedImage
    assert "\n" not in str(caught.value)


def test_progressive_jpeg_cut_in_a_late_scan() -> None:
    whole = saved(noise(), "JPEG", progressive=True)
    with pytest.raises(TruncatedImage):
        load_photo(whole[: len(whole) * 9 // 10])


def test_damaged_bytes_never_leak_another_exception() -> None:
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = np.frombuffer(saved(noise(40, 40), kind), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            where = random.integers(4, len(whole), 12)
            where[:4] %= 200
            damaged[where] = random.integers(0, 256, 12)
            with contextlib.suppress(UnreadableImage, TruncatedImage, ImageTooLarge, EmptyImage):
                assert load_photo(damaged.tobytes(), max_pixels=1_000_000).rgb.dtype == np.uint8


def test_bomb_is_refused_from_its_header() -> None:
    # The pixels are missing: whoever decodes would say Truncated, after having asked for gigabytes.
    bombs = [png(60_000, 60_000, 8, 2, b"\0" * 1000), png(12_000, 9_000, 8, 2, b"\0" * 1000)]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    for bomb in bombs:
        with pytest.raises(ImageTooLarge, match=r"64000000"):
            load_photo(bomb)
    assert time.perf_counter() - started < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_limit_is_exact_and_pillows_own_stays() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    assert load_photo(corners(), max_pixels=48 * 32).rgb.shape == (32, 48, 3)
    with pytest.raises(ImageTooLarge, match="48x32 is 1536 pixels, the limit is 1535"):
        load_photo(saved(corners(), "PNG"), max_pixels=48 * 32 - 1)
    # Pillow alone refuses 3.6 gigapixels; ours allows them here, so decoding starts, and finds them missing.
    with pytest.raises(TruncatedImage):
        load_photo(png(40_000, 20_000, 1, 0, b"\0" * 1000), max_pixels=4_000_000_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(saved(corners(), "PNG"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(StorageError, match="Permission denied; check path and rights"):
        load_photo(path)


# --- writing ---


def test_same_keeps_the_format_and_the_rest_becomes_png() -> None:
    kept = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
    for kind, suffix in {**kept, "GIF": ".png", "TIFF": ".png", "BMP": ".png", "HEIF": ".png"}.items():
        data, found = encode_photo(Photo(corners(), None, kind), "same", 95)
        assert found == suffix
        assert kept[load_photo(data).format] == suffix
    assert encode_photo(Photo(corners(), None, "PNG"), "jpeg", 95)[1] == ".jpg"
    assert encode_photo(Photo(corners(), None, "JPEG"), "png", 95)[1] == ".png"


def test_round_trips() -> None:
    rgb, alpha = noise(), noise()[..., 0]
    photo = load_photo(encode_photo(Photo(rgb, alpha, "PNG"), "same", 95)[0])
    assert np.array_equal(photo.rgb, rgb)
    assert np.array_equal(photo.alpha, alpha)
    photo = load_photo(encode_photo(Photo(corners(), alpha[:32, :48], "WEBP"), "same", 95)[0])
    assert np.array_equal(photo.alpha, alpha[:32, :48])
    smooth = np.asarray(Image.fromarray(noise(6, 8)).resize((160, 120), Image.Resampling.BICUBIC))
    photo = load_photo(encode_photo(Photo(smooth, None, "JPEG"), "same", 95)[0])
    assert np.abs(photo.rgb.astype(int) - smooth).mean() < 1.5


def test_jpeg_lays_transparency_on_white_and_does_not_subsample() -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 24:] = 255
    data, _ = encode_photo(Photo(corners(), alpha, "PNG"), "jpeg", 100)
    assert np.abs(load_photo(data).rgb[2, 2].astype(int) - WHITE).max() < 6
    assert np.abs(load_photo(data).rgb[2, -2].astype(int) - GREEN).max() < 6
    assert [layer[1:3] for layer in Image.open(io.BytesIO(data)).layer] == [(1, 1)] * 3


def test_quality_matters() -> None:
    sizes = [len(encode_photo(Photo(noise(), None, "JPEG"), "same", quality)[0]) for quality in (20, 60, 95)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_metadata_is_gone(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x9286] = "SECRETNAME", "SECRETNAME"
    options: dict[str, Any] = {"exif": exif, "icc_profile": swapped_profile()}
    if kind != "PNG":
        options["xmp"] = b"<x:xmpmeta>SECRETNAME</x:xmpmeta>"
    if kind == "JPEG":
        options["comment"] = b"SECRETNAME"
    source = saved(corners(), kind, **options)
    assert b"SECRETNAME" in source
    data, _ = encode_photo(load_photo(source), "same", 90)
    assert b"SECRETNAME" not in data
    again = Image.open(io.BytesIO(data))
    assert not again.getexif()
    assert not {"exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "comment", "dpi"} & set(again.info)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_bytes_are_deterministic(kind: str) -> None:
    photo = Photo(noise(), noise()[..., 1], kind)
    assert encode_photo(photo, "same", 80) == encode_photo(photo, "same", 80)


def test_too_long_for_its_format_becomes_png() -> None:
    strip = np.zeros((2, 17_000, 3), np.uint8)
    assert encode_photo(Photo(strip, None, "WEBP"), "same", 80)[1] == ".png"
    strip = np.zeros((1, 70_000, 3), np.uint8)
    assert encode_photo(Photo(strip, None, "JPEG"), "jpeg", 80)[1] == ".png"


# --- finding ---


def test_find_photos(tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    for path in ("b.JPG", "a.png", "sub/c.webp", "sub/deep/d.heic", "notes.txt", "._b.jpg", ".hidden/e.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    outside.mkdir()
    (outside / "private.jpg").write_bytes(b"x")
    (folder / "escape.jpg").symlink_to(outside / "private.jpg")
    (folder / "escape").symlink_to(outside)
    (folder / "broken.jpg").symlink_to(folder / "gone.jpg")
    (folder / "inside.jpg").symlink_to(folder / "sub" / "c.webp")
    (folder / "loop").symlink_to(folder)
    found = [str(path.relative_to(folder)) for path in find_photos(folder)]
    assert found == ["a.png", "b.JPG", "inside.jpg", "sub/c.webp", "sub/deep/d.heic"]


def test_find_photos_refuses_what_it_cannot_list(tmp_path: Path) -> None:
    assert find_photos(tmp_path) == []
    for path in (tmp_path / "gone", tmp_path / "file.jpg"):
        (tmp_path / "file.jpg").write_bytes(b"x")
        with pytest.raises(StorageError, match="cannot list"):
            find_photos(path)
