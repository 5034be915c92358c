"""AnonymousNet: natural face de-identification with measurable privacy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer, Release
    from anonymousnet.config import Config

__version__ = "0.1.0"
__all__ = ["Anonymizer", "Config", "Release", "__version__"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: torch takes seconds, `--help` should not."""
    if name in ("Anonymizer", "Release"):
        from anonymousnet import anonymizer

        return getattr(anonymizer, name)
    if name == "Config":
        from anonymousnet.config import Config

        return Config
    raise AttributeError(f"module 'anonymousnet' has no attribute '{name}'")
