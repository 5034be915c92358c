"""Published weights that a running server picks up without a restart.

    FOLDER/versions/0001/    an ordinary weights folder, never changed once it is there
    FOLDER/latest.json       {"version": "0001", "sha256": ...}, replaced in one step

A reader sees the version before or the version after, never half of one; older versions stay, so that whoever still
reads one can finish.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anonymousnet import weights
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import StorageError, WeightsError


def latest_version(folder: Path) -> Path | None:
    """The weights folder last published in `folder`, for `weights.read(str(...))`; None where nothing is yet.

    Raises WeightsError, in one line, where the pointer is damaged or leads to no weights.
    """
    pointer = folder / "latest.json"
    try:
        version, sha256 = (json.loads(pointer.read_bytes())[key] for key in ("version", "sha256"))
        if not re.fullmatch(r"\d{4,}", version):
            raise ValueError(f"version {version!r}")
        found = folder.joinpath("versions", version)
        if json.loads((found / "config.json").read_bytes())["sha256"] != sha256:
            raise ValueError(f"versions/{version} holds other weights than were published")
    except FileNotFoundError as error:
        if error.filename == str(pointer):
            return None
        raise WeightsError(f"{pointer} leads to no weights ({error.filename}); restore them or publish again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{pointer} is damaged ({error!r}); expected a version and its sha256: publish again"
        ) from None
    return found


def newest(name: str) -> str:
    """`name` for `weights.read`, or its newest version where it is a folder that versions are published in.

    Raises WeightsError.
    """
    found = latest_version(resolve_path(name)) if "/" in name else None
    return name if found is None else str(found)


def publish(folder: Path, network: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Path:
    """Write the tensors as the next version and make it the latest; the same tensors again are no new version.

    One writer at a time. Raises StorageError where the disk refuses.
    """
    try:
        latest = latest_version(folder)
        number = int(latest.name) + 1 if latest else 1
        final = folder / "versions" / f"{number:04d}"
        partial = final.with_suffix(".partial")
        for left_over in (partial, final):  # of a writer killed before it moved the pointer: nobody reads them
            shutil.rmtree(left_over, ignore_errors=True)
        sha256 = weights.write(partial, network, {}, tensors, notes)
        if latest and weights.read(str(latest)).sha256 == sha256:
            shutil.rmtree(partial)
            return latest
        partial.rename(final)
        pointer = folder / "latest.json.partial"
        pointer.write_text(json.dumps({"version": final.name, "sha256": sha256}) + "\n")
        os.replace(pointer, folder / "latest.json")
    except OSError as error:
        raise StorageError(f"cannot publish in {folder}: {error}; free some disk, or choose another --out") from error
    return final
