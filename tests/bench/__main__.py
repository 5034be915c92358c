"""`make bench`: every bench_*.py here, one after the other, in this process. Each prints ratios against a peer measured
in the same run; nothing here passes or fails."""

from __future__ import annotations

import importlib
from pathlib import Path


def main() -> None:
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"\n== {path.stem.removeprefix('bench_')}", flush=True)
        importlib.import_module(f"tests.bench.{path.stem}").main()


if __name__ == "__main__":
    main()
