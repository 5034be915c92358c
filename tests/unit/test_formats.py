"""Formats and colours as users have them, and files made to hang or to mislead whoever decodes them."""

import io
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from anonymousnet.data import colour, decode, images
from anonymousnet.data.images import PHOTO_SUFFIXES, find_photos, load_photo
from anonymousnet.data.scans import MOST_SCANS, MOST_SEGMENTS
from anonymousnet.errors import StorageError, TooManyScans, UnreadableImage

PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71391))
"""Of sRGB, adapted to D50."""
LINEAR, STEPS = (1.0,), np.arange(1024) / 1023
SRGB_CURVE = tuple(np.where(STEPS <= 0.04045, STEPS / 12.92, ((STEPS + 0.055) / 1.055) ** 2.4))


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def profile(name: str, space: str, curve: tuple[float, ...], primaries: Any = PRIMARIES) -> bytes:
    """An ICC profile of version 2, written by hand. `curve`: one gamma, or values in [0, 1]."""

    def fixed(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65_536)) for v in values)

    raw = [round(curve[0] * 256)] if len(curve) == 1 else [round(v * 65_535) for v in curve]
    trc = b"curv\0\0\0\0" + struct.pack(f">I{len(raw)}H", len(raw), *raw)
    said = name.encode() + b"\0"
    tags = {"desc": b"desc\0\0\0\0" + struct.pack(">I", len(said)) + said + bytes(78), "wtpt": fixed(0.9642, 1, 0.8249)}
    if space == "GRAY":
        tags["kTRC"] = trc
    else:
        tags |= {f"{c}TRC": trc for c in "rgb"}
        tags |= {f"{c}XYZ": fixed(*xyz) for c, xyz in zip("rgb", primaries, strict=True)}
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag.encode() + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4xI4s4s4s12x4s", at + len(body), 0x02400000, b"mntr", space.encode().ljust(4), b"XYZ ", b"acsp"
    )
    return head.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)[8:] + bytes(48) + table + body


# --- colour ---


def test_a_profile_counts_by_its_curves_not_by_its_name() -> None:
    pixels, named = noise(40, 40, 3), profile("GIMP built-in Linear sRGB", "RGB", LINEAR)
    wrong = load_photo(saved(pixels, "PNG", icc_profile=named)).rgb
    other = load_photo(saved(pixels, "PNG", icc_profile=profile("linear Rec709 RGB", "RGB", LINEAR))).rgb
    assert np.array_equal(wrong, other)
    linear = pixels / 255
    right = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(wrong - 255 * right).max() <= 1.5


@pytest.mark.parametrize("name", ["sRGB IEC61966-2.1", "uRGB", "c2"])
def test_true_srgb_leaves_pixels_alone_whatever_it_is_called(name: str) -> None:
    pixels = noise(40, 40, 3)
    described = profile(name, "RGB", SRGB_CURVE)
    assert np.array_equal(load_photo(saved(pixels, "PNG", icc_profile=described)).rgb, pixels)


def test_other_primaries_under_the_name_of_srgb_are_converted() -> None:
    pixels = noise(40, 40, 3)
    swapped = profile("sRGB", "RGB", SRGB_CURVE, [PRIMARIES[i] for i in (1, 0, 2)])
    photo = load_photo(saved(pixels, "PNG", icc_profile=swapped)).rgb
    assert np.abs(photo.astype(int) - pixels[..., [1, 0, 2]]).max() <= 3


def test_a_profile_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []
    real = colour._tried
    monkeypatch.setattr(colour, "_tried", lambda one: tried.append(one) or real(one))  # type: ignore[func-returns-value]
    monkeypatch.setattr(colour, "_KNOWN_PROFILES", 3)
    monkeypatch.setattr(colour, "_known", {})
    for _ in range(3):
        decode.decode_file(io.BytesIO(saved(noise(8, 8, 3), "PNG", icc_profile=profile("once", "RGB", LINEAR))), "", 64)
    assert len(tried) == 1
    for i in range(9):
        colour._describes(profile(str(i), "RGB", LINEAR))
    assert len(colour._known) <= 3


@pytest.mark.parametrize("space", ["GRAY", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_goes_through_its_profile_with_and_without_alpha(space: str, kind: str) -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    linear = profile("linear", space, LINEAR)
    bare = load_photo(saved(ramp, kind, icc_profile=linear))
    veiled = load_photo(saved(Image.merge("LA", [ramp, Image.new("L", (16, 16), 200)]), kind, icc_profile=linear))
    deep = np.asarray(ramp).astype(np.uint16) * 257
    assert bare.alpha is None
    assert veiled.alpha is not None
    assert (veiled.alpha == 200).all()
    assert np.array_equal(bare.rgb, veiled.rgb)
    assert np.array_equal(bare.rgb, load_photo(saved(deep, kind, icc_profile=linear)).rgb)
    assert abs(int(bare.rgb[4, 0, 0]) - 137) <= 1  # 64 of 255, linear
    assert np.ptp(bare.rgb.astype(int), axis=2).max() <= 1


def test_colour_goes_through_its_profile_with_and_without_alpha() -> None:
    pixels, linear = noise(20, 20, 4), profile("linear", "RGB", LINEAR)
    veiled = load_photo(saved(pixels, "PNG", icc_profile=linear))
    bare = load_photo(saved(np.ascontiguousarray(pixels[..., :3]), "PNG", icc_profile=linear))
    assert np.array_equal(veiled.rgb, bare.rgb)
    assert np.array_equal(veiled.alpha, pixels[..., 3])


@pytest.mark.parametrize(("space", "shape"), [("GRAY", (8, 8, 3)), ("GRAY", (8, 8, 4)), ("Lab ", (8, 8, 3))])
def test_a_profile_of_another_kind_of_picture_is_ignored(space: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    photo = load_photo(saved(pixels, "PNG", icc_profile=profile("other", space, LINEAR)))
    assert np.array_equal(photo.rgb, pixels[..., :3])


def reversed_tiff(pixels: np.ndarray, **options: Any) -> bytes:
    """A TIFF whose photometric interpretation says that white is zero."""
    data = saved(pixels, "TIFF", **options)
    said = struct.pack("<HHII", 262, 3, 1, 1)
    assert data.count(said) == 1
    return data.replace(said, struct.pack("<HHII", 262, 3, 1, 0))


@pytest.mark.parametrize("orientation", [1, 6])
def test_white_is_zero_at_every_depth(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight = noise(12, 20)
    right = np.rot90(255 - eight, 0 if orientation == 1 else -1)
    for deep in (eight, eight.astype(np.uint16) * 257, (eight / 255).astype(np.float32)):
        photo = load_photo(reversed_tiff(deep, exif=exif)).rgb
        assert np.array_equal(photo, np.dstack([right] * 3)), deep.dtype
    bits = load_photo(reversed_tiff(eight > 99, exif=exif)).rgb[..., 0]
    assert np.array_equal(bits == 0, np.rot90(eight > 99, 0 if orientation == 1 else -1))


# --- formats ---


@pytest.mark.parametrize("suffix", [".heic", ".heif", ".hif"])
def test_heic(tmp_path: Path, suffix: str) -> None:
    from pillow_heif import from_pillow

    smooth = np.asarray(Image.fromarray(noise(6, 8, 3)).resize((128, 96), Image.Resampling.BICUBIC))
    path = tmp_path / f"photo{suffix}"
    from_pillow(Image.fromarray(smooth)).save(path.with_suffix(".heic"), quality=90)
    path.with_suffix(".heic").rename(path)
    assert find_photos(tmp_path) == [path]
    photo = load_photo(path)
    assert (photo.format, photo.later_frames) == ("HEIF", False)
    assert np.abs(photo.rgb.astype(int) - smooth).mean() < 4


def test_files_of_brand_mif1_are_told_apart() -> None:
    """AVIF and HEIC share this one."""
    from pillow_heif import from_pillow

    out = io.BytesIO()
    from_pillow(Image.fromarray(noise(64, 64, 3))).save(out)
    for data, kind in ((saved(noise(64, 64, 3), "AVIF"), "AVIF"), (out.getvalue(), "HEIF")):
        assert load_photo(data[:8] + b"mif1" + data[12:]).format == kind


def test_the_decoder_for_heic_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import pillow_heif

    calls: list[dict[str, bool]] = []
    monkeypatch.setattr(pillow_heif, "register_heif_opener", lambda **settings: calls.append(settings))
    decode._register_heif.cache_clear()
    for _ in range(2):
        decode._register_heif()
    assert len(calls) == 1
    decode._register_heif.cache_clear()


def test_suffixes_that_the_decoders_know(tmp_path: Path) -> None:
    decode._register_heif()
    Image.init()
    wanted = {suffix for suffix, kind in Image.EXTENSION.items() if kind in (*decode._DECODERS, "MPO")}
    assert wanted - PHOTO_SUFFIXES == {".pfm"}  # floats of any range: no photo
    for suffix in (".HIF", ".heics", ".avifs", ".apng", ".j2k", ".jpf"):
        (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert len(find_photos(tmp_path)) == 6


def test_files_without_a_suffix_are_found_by_their_first_bytes(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"):
        (tmp_path / kind).write_bytes(saved(noise(16, 16, 3), kind))
    for name, data in {"jpg": b"", "Makefile": b"all:\n\tBM done", "elf": b"\x7fELF", "photo": b"just text"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".hidden").write_bytes(saved(noise(16, 16, 3), "PNG"))
    found = {path.name for path in find_photos(tmp_path)}
    assert found == {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"}
    assert {load_photo(tmp_path / name).format for name in found} == found


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_later_frames_and_pages_are_told(kind: str) -> None:
    frames = [Image.fromarray(noise(16, 16, 3)), Image.new("RGB", (16, 16), "blue")]
    one = saved(frames[0], kind)
    two = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert not load_photo(one).later_frames
    assert load_photo(two).later_frames
    if kind in ("PNG", "TIFF", "MPO"):  # the others code the first frame of several in another way
        assert np.array_equal(load_photo(one).rgb, load_photo(two).rgb)


def test_many_frames_are_not_read() -> None:
    """2 MB of empty frames: to count them would take longer than to decode the first."""
    frames = [Image.new("P", (1, 1), i % 2) for i in range(3)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    at = data.rindex(b"\x21\xf9")
    started = time.perf_counter()
    assert load_photo(data[:at] + data[at:-1] * 100_000 + b";").later_frames
    assert time.perf_counter() - started < 0.5


# --- hostile ---


def scans_of(count: int) -> bytes:
    """A progressive JPEG of so many scans: its own, and the last one again and again."""
    whole = saved(noise(64, 64), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * (count - whole.count(b"\xff\xda") + 1) + b"\xff\xd9"


def test_scans_are_counted_before_any_is_decoded() -> None:
    assert load_photo(scans_of(MOST_SCANS)).rgb.shape == (64, 64, 3)
    started = time.perf_counter()
    for count in (MOST_SCANS + 1, 20_000):
        with pytest.raises(TooManyScans, match="at most 64 scans in a JPEG, found more; save it anew"):
            load_photo(scans_of(count))
    # What stands before hides nothing: fill bytes, restarts, a segment of random bytes.
    data = scans_of(MOST_SCANS + 1)
    first = data.index(b"\xff\xda")
    with pytest.raises(TooManyScans):
        load_photo(data[:first] + b"\xff" * 200_000 + b"\xff\xe1\xff\xfd" + bytes(65_531) + data[first:])
    assert time.perf_counter() - started < 2


def test_what_is_no_scan_is_not_counted() -> None:
    plain = saved(noise(64, 64), "JPEG", quality=100)
    hidden = b"\xff\xe1" + struct.pack(">H", 2 + 2_000) + b"\xff\xda" * 1_000
    # A segment full of them, as a preview in EXIF may be; and a video behind the picture.
    assert load_photo(plain[:2] + hidden + plain[2:] + b"\xff\xda" * 1_000).rgb.shape == (64, 64, 3)


def test_segments_are_bounded_too() -> None:
    plain = saved(noise(64, 64), "JPEG")
    with pytest.raises(TooManyScans, match="at most 10000 segments"):
        load_photo(plain[:2] + b"\xff\xef\0\2" * MOST_SEGMENTS + plain[2:])


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (pipe, "expected a file, found a named pipe; give the path"),
        (listen, "found a socket"),
        (link("/dev/zero"), "found a device"),
        (link("."), "found a directory"),
        (link("camera.jpg"), "symbolic links"),
    ],
)
def test_only_files_are_opened(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """A pipe would hang for ever, a device deliver for ever."""
    for name in ("camera.jpg", "camera"):
        make(tmp_path / name)
    (tmp_path / "real.png").write_bytes(saved(noise(8, 8, 3), "PNG"))
    assert [path.name for path in find_photos(tmp_path)] == ["real.png"]
    with pytest.raises(StorageError, match=words) as caught:
        load_photo(tmp_path / "camera.jpg")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_looked_at_is_not_left_out_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "IMG_1").write_bytes(saved(noise(8, 8, 3), "PNG"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "IMG_1"))

    monkeypatch.setattr(images, "open_regular", refuse)
    with pytest.raises(StorageError, match="IMG_1: Permission denied"):
        find_photos(tmp_path)


def test_a_folder_job_refuses_a_pipe(tmp_path: Path) -> None:
    from anonymousnet.pipelines.bulk_places import open_places

    pipe(tmp_path / "camera.jpg")
    with pytest.raises(StorageError, match="found a named pipe"):
        open_places(tmp_path / "camera.jpg", tmp_path / "out", None, None)


def test_an_image_cms_profile_object_is_read_like_a_cameras() -> None:
    """Pillow's own sRGB, of version 4."""
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for pixels in (noise(9, 9, 3), noise(9, 9)):
        rgb = load_photo(saved(pixels, "JPEG", icc_profile=own, quality=100, subsampling=0)).rgb
        assert np.array_equal(rgb, load_photo(saved(pixels, "JPEG", quality=100, subsampling=0)).rgb)


def test_heic_that_is_none_is_refused() -> None:
    with pytest.raises(UnreadableImage):
        load_photo(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100))


def test_a_bulk_job_counts_photos_with_later_frames() -> None:
    from anonymousnet.pipelines.bulk_publish import tally

    old = {"photo": "", "faces": []}  # of a job begun by an earlier version
    photos = [old, {**old, "later_frames": True}, {**old, "later_frames": False}]
    assert tally([{"photos": photos, "withheld": [], "left_out": []}])["later_frames"] == 1
