"""Settings of how faces are found and where their crops are placed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anonymousnet.config_section import Section


class AlignConfig(Section):
    """Photo to aligned faces."""

    detector_threshold: float = Field(0.35, gt=0, lt=1)
    """Score above which the detector's answer counts as a face. Low on purpose: a face missed is a face unprotected."""
    detector_side: int = Field(1024, ge=64, le=8192)
    """Photos are shrunk so that their longer side is at most this many pixels before detection."""
    epsilon: float = Field(0.0, ge=0)
    """What the place of a crop, drawn on a coarse grid, may spend on lying nearer to its face; counted per face."""
    looks: Literal["all", "fast"] = "all"
    """`all`: faces turned any way, and small ones in large photos, are looked for too. `fast`: one look at the photo
    as it stands, for those who know that their photos show upright and large faces alone; the evidence says so."""
    unpainted: Literal["quarantine", "cover"] = "quarantine"
    """A photo whose release still shows what looks like a face: withheld, or that place covered by a plain patch."""
    landmarks: str | None = "landmarks"
    """Network whose 68 landmarks place the crop, by name or path; null: the detector's five points do."""
    max_pixels: int = Field(64_000_000, ge=1)
    """Photos that decode to more pixels than this are refused."""
