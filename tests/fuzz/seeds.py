"""Whole files to damage: photos in every format, tars, Parquet files, a release with its signed manifest."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import lzma
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageCms

from anonymousnet.pipelines.manifest import FORMAT, signed

KEY = bytes(range(32))


@functools.cache
def photos() -> dict[str, bytes]:
    """Small pictures by what they are."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
    veiled, exif = small.copy(), Image.Exif()
    veiled.putalpha(Image.new("L", small.size, 120))
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    bits = small.convert("1")
    deep = Image.fromarray(rng.integers(0, 65_536, (48, 64), np.uint16))
    more = {"save_all": True, "append_images": [small.rotate(90), small.rotate(180)]}

    def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    return {
        "jpeg": saved(small, "JPEG", exif=exif, icc_profile=profile),
        "progressive jpeg": saved(small, "JPEG", progressive=True, subsampling=0, restart_marker_blocks=2),
        "cmyk jpeg": saved(small.convert("CMYK"), "JPEG"),
        "mpo": saved(small, "MPO", **more),
        "png": saved(veiled, "PNG", exif=exif, icc_profile=profile),
        "palette png": saved(small.convert("P"), "PNG", transparency=3),
        "deep png": saved(deep, "PNG"),
        "apng": saved(small, "PNG", **more),
        "webp": saved(veiled, "WEBP", quality=60, exif=exif),
        "lossless webp": saved(veiled, "WEBP", lossless=True),
        "moving webp": saved(small, "WEBP", **more),
        "gif": saved(small, "GIF", **more),
        "bmp": saved(small, "BMP"),
        "tiff": saved(small, "TIFF", compression="tiff_lzw", exif=exif),
        "jpeg tiff": saved(small, "TIFF", compression="jpeg"),
        "deflated tiff": saved(deep, "TIFF", compression="tiff_deflate"),
        "pages": saved(bits, "TIFF", compression="group4", save_all=True, append_images=[bits]),
        "float tiff": saved(Image.fromarray(rng.random((48, 64), np.float32)), "TIFF"),
        "heic": saved(veiled, "HEIF", quality=60, exif=exif),
        "avif": saved(veiled, "AVIF", quality=60, exif=exif),
        "jpeg 2000": saved(small, "JPEG2000"),
        "j2k": saved(small, "JPEG2000", no_jp2=True, irreversible=True, quality_layers=[20, 2]),
        "ppm": saved(small, "PPM"),
        "pgm": saved(deep, "PPM"),
    }  # fmt: skip


@functools.cache
def tars() -> dict[str, bytes]:
    """Shards of four samples, in every form and compression."""
    members = {f"{i}.{name.split()[-1]}": data for i, (name, data) in enumerate(list(photos().items())[:4])}
    members |= {"0.txt": b"a caption", "1.json": b'{"label": 3}', "2.seg.png": photos()["png"]}
    found = {}
    for name, form in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for member, data in members.items():
                long = f"{'long/' * 30}{member}" if member.startswith("3") else member
                header = tarfile.TarInfo(long)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
        found[name] = out.getvalue()
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    return found | {f"pax.{name}": compress(found["pax"]) for name, compress in pack.items()}


@functools.cache
def tables() -> dict[str, bytes]:
    """Parquet files with pictures in every place, in every compression."""
    some = list(photos().values())[:5]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({
        "image": pa.array([{"bytes": data, "path": "a.jpg"} for data in some], struct),
        "views": pa.array([[data] for data in some[:4]] + [None], pa.list_(pa.binary())),
        "thumbnail": pa.array(some).dictionary_encode(),
        "more": pa.array([[("a", some[0])], [], None, [], []], pa.map_(pa.string(), pa.binary())),
        "caption": ["one", "two", None, "four", "five"],
        "label": [1, 2, 3, 4, None],
    })  # fmt: skip
    found = {}
    for compression in ("none", "snappy", "gzip", "zstd", "lz4", "brotli"):
        out = io.BytesIO()
        pq.write_table(table, out, compression=compression, row_group_size=2, data_page_size=256)
        found[compression] = out.getvalue()
    return found


def release(folder: Path) -> None:
    """A small release: two photos, a part of the manifest, the statement."""
    names = {"photos/a.jpg": photos()["jpeg"], "photos/b.png": photos()["png"]}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in names.items()}
    out = io.BytesIO()
    pq.write_table(pa.table({"object": list(hashes), "object_sha256": list(hashes.values())}), out)
    part = "manifest/part-00000.parquet"
    statement = {
        "format": FORMAT, "job": "0" * 32, "counts": {"photos": 2, "released": 2},
        "files": {part: hashlib.sha256(out.getvalue()).hexdigest()},
    }  # fmt: skip
    for name, data in {**names, part: out.getvalue(), "manifest.json": signed(statement, KEY)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
