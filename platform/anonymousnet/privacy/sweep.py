"""Can it be more private? Faces released anew under other settings, and what that does to attacker and picture.

One photo of each person is released at each setting; randomness comes from a throwaway key, never the release's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet.align.region import REGIONS
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import STRENGTHS, Config
from anonymousnet.data.attributes import ALL
from anonymousnet.errors import WeightsError
from anonymousnet.faces import FaceBatch
from anonymousnet.metrics import image
from anonymousnet.metrics.identity import Rate
from anonymousnet.metrics.image import Interval
from anonymousnet.privacy.examine import Clean, features, read_back, tools
from anonymousnet.privacy.matching import Thresholds, match
from anonymousnet.privacy.methods import confined
from anonymousnet.privacy.pairs import Pairs
from anonymousnet.privacy.randomness import derive
from anonymousnet.privacy.recognisers import resized, unit_range

KNOBS: dict[str, tuple[float, ...]] = {
    "strength": tuple(sorted(STRENGTHS)),
    "epsilon": (1.0, 3.0, 10.0, 30.0, 100.0),
    "perturbation": (0.0, 4 / 255, 10 / 255, 20 / 255),
}
"""Settings tried, one knob at a time around the release's own."""
THROWAWAY = b"evaluation's throwaway key, 32 B"
MOST_FACES = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One setting: the strongest recogniser's rates, and the picture's quality."""

    knob: str
    value: float
    chosen: bool
    """Whether these are the release's own settings."""
    recogniser: str
    tar: Rate
    """Other photos of the person, at the smallest FAR that can be had."""
    rank1: Rate
    """Other photos of the person."""
    own_rank1: Rate
    """The very original in the gallery."""
    kid: Interval
    ssim: float
    read_back: Rate | None
    faces: int


def around(config: Config, facts: Mapping[str, Any]) -> Config:
    """The settings a release was made with, as far as its evidence tells, over `config`."""
    obfuscate = {"epsilon": facts["epsilon"], "gamma": None}
    if not 0 < facts["epsilon"] < np.inf:
        obfuscate = config.obfuscate.model_dump(include={"epsilon", "gamma"})
    return config.model_copy(update={
        "obfuscate": config.obfuscate.model_copy(update=obfuscate),
        "synthesize": config.synthesize.model_copy(
            update={"strength": facts["strength"], "region": facts["region"]}
        ),
        "perturb": config.perturb.model_copy(update={"epsilon": facts["perturbation"]}),
    })  # fmt: skip


def settings(config: Config) -> list[tuple[str, float, bool]]:
    """(knob, value, whether chosen) of every point to try; the chosen setting comes once, as a strength."""
    found = [("strength", config.synthesize.strength, True)]
    for knob, values in KNOBS.items():
        now = _now(config)[knob]
        # A value within 2 % of the chosen one is the chosen one: evidence carries rounded numbers.
        found += [(knob, v, False) for v in values if now is None or abs(v - now) > 0.02 * max(v, now)]
    return found


def spread(points: Sequence[Point], config: Config) -> list[Point]:
    """The points with the chosen one on every knob's curve."""
    chosen = [replace(p, knob=k, value=v) for p in points if p.chosen for k, v in _now(config).items() if v is not None]
    return sorted([*chosen, *(p for p in points if not p.chosen)], key=lambda p: (p.knob, p.value))


def _now(config: Config) -> dict[str, float | None]:
    return {
        "strength": config.synthesize.strength,
        "epsilon": config.obfuscate.epsilon,
        "perturbation": config.perturb.epsilon,
    }


def measure(
    config: Config, names: tuple[str, ...], knob: str, value: float, chosen: bool, pairs: Pairs,
    originals: Clean, limits: Mapping[str, Thresholds],
) -> Point | None:  # fmt: skip
    """Job: release one photo of each person at one setting; None where weights for it are missing."""
    _, first = np.unique(pairs.identities_N, return_index=True)
    rows = np.sort(first)[:MOST_FACES]
    try:
        faces, said = release(_with(config, knob, value), pairs.sources_N3HW[rows])
    except WeightsError:
        return None
    kit = tools(config, names)
    released = pairs.take(rows).under(faces, said)
    best = None
    for judge in kit.recognisers:
        vectors = judge.embed(faces)
        found = match(originals.vectors[judge.name], vectors, pairs.identities_N, limits[judge.name], None, rows)
        by = {m.pair: m for m in found if m.subgroup == ALL}
        if best is None or by["other"].rank["1"].value > best[1]["other"].rank["1"].value:
            best = judge.name, by
    assert best is not None  # there is always a recogniser
    name, by = best
    similar = float(image.likeness(released.sources_N3HW, faces, pairs.region)[0].mean())
    fake = features(kit, faces)
    return Point(
        knob, value, chosen, name, list(by["other"].tar.values())[-1], by["other"].rank["1"], by["own"].rank["1"],
        image.kid(originals.features_ND[rows], fake), similar, read_back(kit, released, fake), len(rows),
    )  # fmt: skip


def release(config: Config, sources_N3HW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Aligned faces through Stages I to IV: (released faces at the sources' size, released attributes)."""
    anonymizer, region = Anonymizer.load(config, THROWAWAY), REGIONS[config.synthesize.region]
    side, px = sources_N3HW.shape[-1], anonymizer.face_px
    cells = STRENGTHS[config.synthesize.strength]
    painted, said = [], []
    for start in range(0, len(sources_N3HW), 32):
        source = unit_range(resized(sources_N3HW[start : start + 32], px))
        n = len(source)
        keys = [str(i) for i in range(start, start + n)]
        done = anonymizer.run(FaceBatch(
            context_B3HW=source if cells is None else region.pixelated(source, cells),
            region_B1HW=region.masks(px)[0].expand(n, 1, px, px).clone(),
            draw_keys=tuple(derive(THROWAWAY, "draw", key) for key in keys),
            code_keys=tuple(derive(THROWAWAY, "code", key) for key in keys),
            strength=config.synthesize.strength,
            source_B3HW=source,
        ))  # fmt: skip
        assert done.faces_B3HW is not None
        assert done.released_B40 is not None
        faces = torch.nn.functional.interpolate(done.faces_B3HW, size=(side, side), mode="bicubic") if px != side \
            else done.faces_B3HW  # fmt: skip
        painted.append(confined(sources_N3HW[start : start + 32], faces, region))
        said.append(done.released_B40.numpy())
    return np.concatenate(painted), np.concatenate(said)


def _with(config: Config, knob: str, value: float) -> Config:
    section, field = {
        "strength": ("synthesize", "strength"), "epsilon": ("obfuscate", "epsilon"),
        "perturbation": ("perturb", "epsilon"),
    }[knob]  # fmt: skip
    changed: dict[str, Any] = {field: value} | ({"gamma": None} if knob == "epsilon" else {})
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changed)})
