"""The privacy report of one release: one HTML page that needs nothing but itself.

It stands beside the released photos, so it holds public evidence only: released faces, released attributes,
epsilon, t, hashes. Which photos were withheld, what the faces truly looked like and where the private folder
lies never reach it. The same arguments give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from anonymousnet.align.region import REGIONS
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES, OUTSIDE
from anonymousnet.faces import PublicEvidence

SHOWN_FACES: int = 48
"""Most faces that the gallery shows."""

KINDS: dict[str, str] = {
    "NoFaceFound": "no face was found, so nothing could be protected",
    "ProtectionFailed": "a face was seen but could not be replaced",
    "UnpaintedFace": "the release still showed what looks like a face",
    "WorkerDied": "the process that worked on it died, again and again",
    "EmptyImage": "the file was empty",
    "UnreadableImage": "the file is not a picture that can be read here",
    "TruncatedImage": "the file stops before its picture does",
    "ImageTooLarge": "the picture has more pixels than allowed, or needs more memory",
    "ImageTooSlow": "the picture takes longer to decode than allowed",
    "TooManyScans": "the picture would take too long to decode",
    "StorageError": "the file could not be opened",
    "BudgetExceeded": "the privacy budget of the person in it was used up",
    "UnnamedSubject": "a budget is set, and nobody said who is in it",
}
"""Kinds of quarantine (names of errors) in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a source's photos: public, and the same however often the job was killed. Every photo is either
    released or quarantined."""

    photos: int
    released: int
    quarantined: int
    faces: int
    skipped: int = 0
    """Files that are neither photos nor archives: never read, never released."""
    left_out: int = 0
    """Members, columns and cells of archives that are not in the release."""
    epsilon: float
    """Of each face."""
    photo_epsilon: float
    """Mean over released photos with faces of the epsilon of a photo, the sum over its faces."""
    max_photo_epsilon: float
    """The largest of them."""
    t: float
    """Largest expected distance of a released marginal from the population."""
    strength: float
    guarantee: str
    reasons: dict[str, int] = field(default_factory=dict)
    """Kinds of quarantine and how often each came; which photo and why is in the audit place."""
    later_frames: int = 0
    """Released photos whose files held more frames or pages: the first one is released, the others are left out."""


@dataclass(frozen=True, slots=True)
class ShownFace:
    """One released face of the gallery."""

    photo: str
    """The released photo's name, relative to the release's folder."""
    picture: str
    """The face as painted: a JPEG, in base64."""
    side: int
    """Its width and height in pixels."""
    public: PublicEvidence


@dataclass(frozen=True, slots=True)
class _Share:
    """A row of the chart: shares and band edges in percent."""

    name: str
    population: float
    released: float
    low: float
    high: float
    outside: bool
    kept: bool


def release_page(
    summary: Outcome,
    shown: Sequence[ShownFace],
    config: Config,
    released_shares: Mapping[str, float],
    population_shares: Mapping[str, float],
) -> str:
    """The page as HTML text that always encodes to UTF-8.

    `released_shares`: attribute -> share of ALL released faces that have it, 0 to 1; empty where no face was
    released. `population_shares`: the same for the population of Stage II. Both hold all 40 names, or none.
    """
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("anonymousnet.report").joinpath("release.html").read_text("utf-8")
    public = shown[0].public if shown else None
    reasons = [(KINDS.get(kind, f"another fault ({kind})"), n) for kind, n in sorted(summary.reasons.items())]
    shares = _shares(summary.t, config, released_shares, population_shares)
    html = page.from_string(source).render(
        summary=summary,
        name=config.release.name,
        reasons=reasons,
        finite=math.isfinite(summary.epsilon),
        factor=_factor(summary.epsilon),
        counted=config.release.ledger is not None,
        named=config.release.subjects is not None,
        kept=[_words(name) for name in config.obfuscate.keep],
        outside=[_words(name) for name in ATTRIBUTES if _outside(name, config)] if summary.strength > 0 else [],
        followed=[_words(name) for name in ATTRIBUTES if name in config.obfuscate.followed],
        region=REGIONS[config.synthesize.region],
        perturbation=public.perturbation if public else config.perturb.epsilon,
        faces=[_card(face) for face in shown],
        shares=shares,
        widest=max(shares, key=lambda share: abs(share.released - share.population), default=None),
        # Half the width of a 95 % interval of a share near one half: what chance alone does to so few.
        chance=100 * 0.98 / math.sqrt(max(summary.faces, 1)),
        public=public,
        settings=_settings(config),
    )
    # A file name that is not UTF-8 arrives with lone surrogates, which no page can hold.
    return html.encode("utf-8", "replace").decode()


def _words(name: str) -> str:
    """An attribute's name as a reader writes it."""
    return name.replace("_", " ")


def _outside(name: str, config: Config) -> bool:
    return name in OUTSIDE[config.synthesize.region] or name in config.obfuscate.followed


def _factor(epsilon: float) -> str:
    """e^epsilon, the largest change of odds, to as many digits as a reader can use."""
    if epsilon > 20:
        return f"10^{epsilon / math.log(10):.0f}"
    value = math.exp(epsilon)
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _shares(t: float, config: Config, released: Mapping[str, float], population: Mapping[str, float]) -> list[_Share]:
    """The chart's rows: painted attributes first, then those seen outside; the common before the rare."""
    rows = []
    for name in ATTRIBUTES if released else ():
        common, kept = population[name], name in config.obfuscate.keep
        # t speaks of the mechanism's own draws; an attribute that is kept, or follows, is not drawn: it has no band.
        spread = 0.0 if kept or name in config.obfuscate.followed else t
        low, high = max(0.0, common - spread), min(1.0, common + spread)
        outside = _outside(name, config) and config.synthesize.strength > 0
        rows.append(_Share(_words(name), 100 * common, 100 * released[name], 100 * low, 100 * high, outside, kept))
    return sorted(rows, key=lambda row: (row.outside, -row.population))


def _card(face: ShownFace) -> dict[str, Any]:
    """A gallery entry: picture, photo, and the attributes that were released as present."""
    present = [name for name in ATTRIBUTES if face.public.released.get(name)]
    return {
        "photo": face.photo,
        "picture": f"data:image/jpeg;base64,{face.picture}",
        "side": face.side,
        "painted": [_words(name) for name in present if name not in face.public.unprotected],
        "seen": [_words(name) for name in present if name in face.public.unprotected],
    }


def _settings(config: Config) -> list[tuple[str, str]]:
    """Settings that shaped the release. No key file, and of paths only the last part: folders name people."""
    private = {"key_file", "ledger", "subjects"}
    aside = dict.fromkeys(("train", "scale", "serve", "bulk", "seed", "batch", "audit"), True)
    tree = config.model_dump(exclude={**aside, "release": private})
    rows = []
    for section, value in tree.items():
        for key, leaf in value.items() if isinstance(value, dict) else [("", value)]:
            rows.append((f"{section}.{key}" if key else section, _plain(leaf)))
    return rows


def _plain(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value):
        return Path(value).name
    return f"{value:.4g}" if isinstance(value, float) else str(value)
