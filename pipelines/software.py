"""What the bytes of a face depend on beside settings and weights."""

from __future__ import annotations

from importlib.metadata import version


def software() -> dict[str, str]:
    """Versions by name."""
    return {name: version(name) for name in ("anonymousnet", "numpy", "openvino", "pillow", "pyarrow", "torch")}
