"""The folder job against `deface` (CenterFace and a blur, no new face), on the same rendered pages."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from anonymousnet.config import Config
from anonymousnet.data.synthetic import render_page
from anonymousnet.pipelines.bulk import anonymize

PAGES = 12


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for seed in range(PAGES):
            Image.fromarray(render_page(seed, faces=4)[0]).save(folder / "photos" / f"{seed}.jpg", quality=92)
        config = Config.load(None, [f"release.key_file={folder}/key"])
        summary = anonymize(folder / "photos", folder / "out", config)
        peer = _deface(sorted((folder / "photos").glob("*.jpg")))
    print(f"anonymousnet  {summary.photos_per_second:6.2f} photos/s  ({summary.faces} faces painted anew)")
    print(f"deface        {PAGES / peer:6.2f} photos/s  (blurred)")
    print(f"ratio         {summary.photos_per_second * peer / PAGES:6.2f}  (both with their start-up)")


def _deface(photos: list[Path]) -> float:
    """Seconds that the peer needs for the same photos, start-up included."""
    started = time.monotonic()
    command = [str(Path(sys.executable).with_name("deface")), *map(str, photos)]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
