"""What a job wrote into its audit place, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OURS = ("release.parquet", "report.html", "manifest.json")


def released_files(dst: Path) -> dict[str, bytes]:
    """Name -> bytes of the photos of a release, without what stands beside them."""
    found = {p.relative_to(dst).as_posix(): p for p in sorted(dst.rglob("*")) if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if name not in OURS and not name.startswith("manifest/")}


def lines(audit: Path, pattern: str) -> list[dict[str, Any]]:
    """Every line of the files that match, such as `quarantine-*.jsonl`, of any job of an audit place."""
    files = sorted(audit.glob(f"*/{pattern}"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def quarantine(audit: Path) -> dict[str, str]:
    """Name -> kind of what was withheld."""
    return {line["source"]: line["kind"] for line in lines(audit, "quarantine-*.jsonl")}


def evidence(audit: Path) -> list[dict[str, Any]]:
    """The private evidence of every face, with its photo's name in the source and in the release."""
    return [
        {**face, "source": line["source"], "photo": line["object"]}
        for line in lines(audit, "records/*.jsonl")
        for face in line["private"]
    ]
