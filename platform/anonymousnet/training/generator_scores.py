"""What a generator's card says of people it never saw: whom its faces show, whether codes are people, how faces look.

Two photos of each person are painted with one code a person and one draw of attributes a photo (`plain`), again with
other codes and draws, with other codes alone, and with the perturbation on top. Thresholds come from the untouched
photos of different people. A whole release under all attackers is `evaluate`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anonymousnet.align.region import REGIONS
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.attributes import ALL, INDEX, RegionName
from anonymousnet.data.celeba import CelebA
from anonymousnet.errors import DataError
from anonymousnet.metrics import image
from anonymousnet.metrics.bootstrap import clustered, interval, resampled, totals
from anonymousnet.metrics.identity import Rate, impostor_scores, rank_k, threshold_at
from anonymousnet.metrics.image import Interval
from anonymousnet.metrics.skin import kinds, skin
from anonymousnet.privacy import examine, recognisers
from anonymousnet.privacy.examine import Clean, Seen, Tools
from anonymousnet.privacy.methods import METHODS
from anonymousnet.privacy.pairs import Pairs
from anonymousnet.privacy.randomness import derive
from anonymousnet.privacy.recognisers import Recogniser, unit_range
from anonymousnet.training.disturbances import compressed
from anonymousnet.training.painting import painted

Faces = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Row = dict[str, float | str]
Progress = Callable[[Iterable[int]], Iterable[int]]

EPSILON = 10 / 255
"""Size of the perturbation under which the fall of recognition is measured."""
STRICT, LOOSE = 1e-3, 1e-2
"""False-accept rates: of the claim that a face is a certain person, and that two painted faces are one person."""
HIDING = ("blur", "pixelate", "black box")
"""Methods whose KID stands beside the generator's."""
BATCH = 60
"""Faces painted at a time: whole pairs."""


@dataclass(frozen=True, slots=True)
class Releases:
    """N aligned faces, two of each person in turn, and what was made of them: uint8 (N, 3, px, px)."""

    sources: Faces
    people_N: NDArray[np.int64]
    plain: Faces
    again: Faces
    """Other codes, other draws."""
    recoded: Faces
    """Other codes, the draws of `plain`."""
    perturbed: Faces
    """`plain` under the perturbation at EPSILON."""
    said_N40: NDArray[np.bool_]
    """Attributes as `plain` carries them."""


def score_generator(
    name: str, region: RegionName, part: CelebA, config: Config, progress: Progress = iter
) -> tuple[int, tuple[dict[str, float], list[Row], list[Row]]]:
    """(faces, (means, a row for each measure, a row for each subgroup and kind of skin)); 95 % intervals.

    `region`: the one that the weights paint. Raises DataError where too few people have two photos for a threshold.
    """
    part = part.take(two_of_each(part.identities))
    synthesize = config.synthesize.model_copy(update={"weights": name, "region": region, "strength": 1.0})
    config = config.model_copy(update={"synthesize": synthesize})
    made = releases(config, part, progress)
    kit = examine.tools(config, recognisers.installed(config))
    rows = [row for judge in kit.recognisers for row in identity_rows(judge, made)]
    pairs = Pairs(made.sources, made.plain, made.people_N, part.attributes, made.said_N40, REGIONS[region])
    sampled = made.sources[examine.sample(len(part))]
    clean = Clean({}, image.detect(kit.detector, sampled), examine.features(kit, made.sources))
    seen = Seen.of(kit, pairs, clean)
    looks = look_rows(kit, pairs, seen, made.perturbed)
    means = {str(row["measure"]): float(row["value"]) for row in looks}
    return len(part), (means, [*rows, *looks], subgroup_rows(pairs, seen))


def two_of_each(identities_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of two faces of each person who has so many, person by person. Raises DataError where nobody has."""
    people, counts = np.unique(identities_N, return_counts=True)
    rows = [np.flatnonzero(identities_N == person)[:2] for person in people[counts >= 2]]
    if not rows:
        raise DataError("expected people with two photos or more, got none; check identity_CelebA.txt")
    return np.concatenate(rows)


def releases(config: Config, part: CelebA, progress: Progress) -> Releases:
    """Paint all faces in the four ways; keys are fixed, so the same weights give the same figures."""
    off, on = (
        Anonymizer.load(
            config.model_copy(update={"perturb": config.perturb.model_copy(update={"epsilon": size})}), bytes(32)
        )
        for size in (0.0, EPSILON)
    )
    sources = part.faces(off.face_px)
    ways = {"plain": (off, "1", "1"), "again": (off, "2", "2"), "recoded": (off, "1", "2"), "perturbed": (on, "1", "1")}
    found: dict[str, list[Faces]] = {way: [] for way in ways}
    said = []
    for start in progress(range(0, len(sources), BATCH)):
        rows = range(start, min(start + BATCH, len(sources)))
        for way, (anonymizer, draw, code) in ways.items():
            draws = [derive(bytes(32), "draw", draw, str(row)) for row in rows]
            codes = [derive(bytes(32), "code", code, str(part.identities[row])) for row in rows]
            faces, released = painted(anonymizer, sources[rows.start : rows.stop], draws, codes)
            found[way].append(((faces + 1) * 127.5).round().clamp(0, 255).byte().numpy())
            if way == "plain":
                said.append(released.numpy() > 0.5)
    done = {way: np.concatenate(parts) for way, parts in found.items()}
    return Releases(sources, part.identities, said_N40=np.concatenate(said), **done)


def identity_rows(judge: Recogniser, made: Releases) -> list[Row]:
    """Whom a recogniser takes the painted faces for. `beside`: what chance, or two people, would show."""
    source, plain, again, recoded, perturbed = (
        judge.embed(faces) for faces in (made.sources, made.plain, made.again, made.recoded, made.perturbed)
    )
    after_jpeg = [judge.embed(_jpeg(faces)) for faces in (made.perturbed, made.plain)]
    people = made.people_N
    strict, loose = (threshold_at(impostor_scores(source, people), far) for far in (STRICT, LOOSE))
    other = np.arange(len(source)) ^ 1

    def above(a: Vectors, b: Vectors, threshold: float) -> NDArray[np.bool_]:
        return np.asarray((a * b).sum(1) > threshold)

    def shared(a: Vectors, b: Vectors) -> NDArray[np.bool_]:  # a's first photo with b's second, and the other way about
        return above(a, b[other], loose)

    def strangers(a: Vectors, b: Vectors) -> float:
        cosines = a @ b.T
        return float((cosines[people[:, None] != people] > loose).mean())

    code, one, squeezed = shared(plain, plain), shared(perturbed, plain), shared(*after_jpeg)
    fall, jpeg_fall = code.astype(float) - one, code.astype(float) - squeezed
    rates: dict[str, tuple[Rate | Interval, float]] = {
        "own source, FAR 0.001": (clustered(above(plain, source, strict), people), STRICT),
        "other photo, FAR 0.001": (clustered(above(plain, source[other], strict), people), STRICT),
        "named, own source there": (rank_k(plain, people, source, people, 1), 2 / len(people)),
        "two releases apart": (clustered(~above(plain, again, loose), people), 1 - LOOSE),
        "two codes, one draw apart": (clustered(~above(plain, recoded, loose), people), 1 - LOOSE),
        "one code on two photos": (clustered(code, people), strangers(plain, plain)),
        "one code, one perturbed": (clustered(one, people), strangers(perturbed, plain)),
        "fall when one is perturbed": (_mean(fall, people), 0.0),
        "that fall after JPEG 75": (_mean(jpeg_fall, people), 0.0),
    }
    return [_row(f"{judge.name}: {measure}", rate, beside) for measure, (rate, beside) in rates.items()]


def look_rows(kit: Tools, pairs: Pairs, seen: Seen, perturbed: Faces) -> list[Row]:
    """How the painted faces look, beside what hides faces without painting any."""
    whole = seen.quality(np.ones(len(pairs), np.bool_))
    assert pairs.said_N40 is not None  # so there is a `read_back` too
    assert whole.read_back is not None
    said = pairs.said_N40[:, [INDEX[name] for name in pairs.region.inside]].mean(0)
    rows = [
        _row("detected", whole.detected),
        _row("read back", whole.read_back, float(np.maximum(said, 1 - said).mean())),
        _row("KID", whole.kid),
    ]
    for name in HIDING:
        hidden = examine.features(kit, METHODS[name](pairs.sources_N3HW, pairs.region))
        rows.append(_row(f"KID of {name}", image.kid(seen.real_ND, hidden)))
    for where, region in (("whole crop", None), ("region", pairs.region)):
        similar = image.likeness(pairs.released_N3HW, perturbed, region)[0]
        rows.append(_row(f"SSIM at 10/255, {where}", _mean(similar, pairs.identities_N)))
    return rows


def subgroup_rows(pairs: Pairs, seen: Seen) -> list[Row]:
    """The same by subgroup and kind of skin, and how much lighter skin became."""
    before, after = skin(pairs.sources_N3HW), skin(pairs.released_N3HW)
    groups = {ALL: np.ones(len(pairs), np.bool_)} | pairs.subgroups() | kinds(before)
    rows: list[Row] = []
    for name, members in groups.items():
        if members.sum() >= 2:
            found, change = seen.quality(members), _mean((after - before)[members, 0], pairs.identities_N[members])
            rows.append({
                "subgroup": name, "faces": float(members.sum()), "lightness": float(before[members, 0].mean()),
                "change": change.value, "change_low": change.low, "change_high": change.high, "kid": found.kid.value,
                "read_back": found.read_back.value if found.read_back else float("nan"),
            })  # fmt: skip
    return rows


def _mean(values_N: NDArray[np.float64], people_N: NDArray[np.int64]) -> Interval:
    """A mean and its 95 % interval over people."""
    drawn = resampled(totals(values_N, people_N), totals(np.ones(len(values_N)), people_N))
    return Interval(float(values_N.mean()), *interval(drawn))


def _row(measure: str, found: Rate | Interval, beside: float | None = None) -> Row:
    row: Row = {"measure": measure, "value": found.value, "low": found.low, "high": found.high}
    return row if beside is None else {**row, "beside": beside}


def _jpeg(faces_N3HW: Faces) -> Faces:
    squeezed = compressed(unit_range(faces_N3HW), 75)
    return np.asarray(((squeezed + 1) * 127.5).round().clamp(0, 255).byte().numpy())
