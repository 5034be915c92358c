"""The block attack: 40 photos equal outside the region when they were taken, then coded; which one was released?

The attacker holds the 40 coded files and compares what a release shows of its source with each of them: the one that
differs least is his guess (ties are drawn). A release shows all that is not hidden.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from anonymousnet.align.place import Grid
from anonymousnet.align.region import FACE
from anonymousnet.align.warp import PIXELS, owners
from anonymousnet.data.images import load_photo
from anonymousnet.privacy.randomness import derive
from tests.attacks.faces import PX, Aligner, People, Rgb, folder, interval

PEOPLE, TRIALS = 40, 20


def saved(kind: str, **settings: object) -> Callable[[Rgb], bytes]:
    """How a camera or a program writes files."""

    def write(rgb: Rgb) -> bytes:
        out = io.BytesIO()
        Image.fromarray(rgb).save(out, kind, **settings)
        return out.getvalue()

    return write


def shrunk(rgb: Rgb) -> bytes:
    """A JPEG that was scaled to three quarters and saved again."""
    first = Image.open(io.BytesIO(saved("JPEG", quality=90)(rgb)))
    small = first.resize((first.width * 3 // 4, first.height * 3 // 4), Image.Resampling.LANCZOS)
    return saved("JPEG", quality=90)(np.asarray(small))


def turned(rgb: Rgb) -> bytes:
    """A JPEG that its EXIF turns by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("JPEG", quality=90, exif=exif)(np.ascontiguousarray(np.rot90(rgb)))


FORMATS: dict[str, Callable[[Rgb], bytes]] = {
    "JPEG 75": saved("JPEG", quality=75),
    "JPEG 90": saved("JPEG", quality=90),
    "JPEG 90, 4:4:4": saved("JPEG", quality=90, subsampling=0),
    "JPEG 90, turned by EXIF": turned,
    "JPEG 90, at 3/4 of its size": shrunk,
    "PNG": saved("PNG"),
    "WebP 80": saved("WEBP", quality=80),
    "AVIF 75": saved("AVIF", quality=75),
}


def main() -> None:
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        FORMATS["HEIC 80"] = saved("HEIF", quality=80)
    except ImportError:
        print("HEIC left out: pip install pillow-heif")
    people, align = People.open(folder()), Aligner()
    print(f"{PEOPLE} people, {TRIALS} trials; chance {1 / PEOPLE:.3f}")
    for name, write in FORMATS.items():
        rng = np.random.default_rng(2)
        bare = whole = 0.0
        for trial in range(TRIALS):
            base = people.photo(int(rng.integers(10_000)))
            pose = align(base)
            if pose is None:
                continue
            pose = Grid(base.shape[:2], PX, FACE).draw(pose[None], [derive(bytes(32), str(trial))])
            taken = owners(base.shape[:2], pose, PX, FACE, PIXELS) > 0
            faces = [people.photo(int(i)) for i in rng.integers(10_000, size=PEOPLE)]
            files = [load_photo(write(np.where(taken[..., None], face, base))) for face in faces]
            ratio = files[0].rgb.shape[0] / base.shape[0]
            at = pose.copy()
            at[:, :, :2] /= ratio
            shape = files[0].rgb.shape[:2]
            secret = int(rng.integers(PEOPLE))
            for blocks in (PIXELS, files[0].blocks):
                seen = ~(owners(shape, at, PX, FACE, blocks) > 0)
                shown = files[secret].rgb[seen].astype(int)
                off = np.array([np.abs(shown - file.rgb[seen]).sum() for file in files])
                guess = 1 / int((off == off.min()).sum())
                if blocks == PIXELS:
                    bare += guess
                else:
                    whole += guess
        print(f"{name:<30} pixels hidden {interval(bare, TRIALS)}   whole blocks hidden {interval(whole, TRIALS)}")


if __name__ == "__main__":
    main()
