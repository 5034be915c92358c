"""Each stage's own time per face at batch 1 and 16, and the whole against detection alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.synthetic import render_page
from anonymousnet.faces import join

ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        anonymizer = Anonymizer.load(Config.load(None, [f"release.key_file={Path(name) / 'key'}"]))
    one = anonymizer.prepare(render_page(0, faces=1, width=480)[0]).batch
    for size in (1, 16):
        batch = join([one] * size)
        anonymizer.run(batch)
        totals: dict[str, float] = {}
        for _ in range(ROUNDS):
            for stage, seconds in anonymizer.run(batch).seconds.items():
                totals[stage] = totals.get(stage, 0.0) + seconds * 1000 / size / len(one) / ROUNDS
        parts = "  ".join(f"{stage} {ms:.2f}" for stage, ms in totals.items())
        whole = sum(totals.values())
        print(f"batch {size:>2}: {whole:6.2f} ms a face ({1000 / whole:.0f}/s, {anonymizer.runner.form}): {parts}")


if __name__ == "__main__":
    main()
