"""The demo's photos: scikit-image's public-domain astronaut, and pages of rendered faces."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

PAGES = 3


def write_photos(folder: Path) -> Path:
    """Write the demo's photos into `folder` (made if need be) and return it."""
    from skimage.data import astronaut

    from anonymousnet.data.synthetic import render_page

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(astronaut()).save(folder / "astronaut.png")
    for seed in range(PAGES):
        Image.fromarray(render_page(seed)[0]).save(folder / f"page-{seed}.jpg", quality=92)
    return folder
