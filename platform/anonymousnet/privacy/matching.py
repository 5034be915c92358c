"""From embeddings to re-identification rates: verification, false accepts and ranks, with intervals.

Thresholds are fixed on CLEAN impostors (photos of different people, untouched), never on released faces: a method
that makes all faces look alike would otherwise raise its own threshold. Three kinds of pairs are told apart:

    own        the released face against the very photo it was made from
    other      against the person's other photos, the own one taken out of the gallery
    released   against other released faces of the person, no original needed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.attributes import ALL
from anonymousnet.errors import DataError
from anonymousnet.metrics.bootstrap import clustered
from anonymousnet.metrics.identity import Rate, impostor_scores, threshold_at

Pair = Literal["own", "other", "released"]
PAIRS: tuple[Pair, ...] = ("own", "other", "released")
FARS: dict[str, float] = {"1e-2": 1e-2, "1e-3": 1e-3}
RANKS = (1, 5)

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Matching:
    """How well one recogniser links one kind of pair, for one subgroup of the probes."""

    pair: Pair
    subgroup: str
    tar: dict[str, Rate]
    """FAR -> share of pairs of the same person that are accepted; a FAR with too few impostors is left out."""
    false_accepts: dict[str, float]
    """FAR -> share of pairs of DIFFERENT people accepted at the same threshold: about FAR if the release is fair game;
    far above it, all released faces look alike, and a high TAR says nothing."""
    rank: dict[str, Rate]
    """k -> share of probes whose person is among the k most similar people of the gallery."""
    chance: dict[str, float]
    """k -> what guessing reaches: k / people in the gallery."""
    people: int
    probes: int


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Accepting scores at each FAR, from clean impostors."""

    at: dict[str, float]
    impostors: int


def thresholds(clean_ND: Vectors, identities_N: Ids) -> Thresholds:
    """From all pairs of different people among clean faces.

    A FAR is left out where there are under 10 / FAR pairs. Raises DataError where there are too few for any.
    """
    impostors = impostor_scores(clean_ND, identities_N)
    at = {name: threshold_at(impostors, far) for name, far in FARS.items() if len(impostors) * far >= 10}
    if not at:
        threshold_at(impostors, max(FARS.values()))  # says how many are needed, and how many there are
    return Thresholds(at, len(impostors))


def match(
    clean_ND: Vectors,
    released_PD: Vectors,
    identities_N: Ids,
    limits: Thresholds,
    subgroups_N: Mapping[str, Mask] | None = None,
    probes_P: NDArray[np.int64] | None = None,
) -> list[Matching]:
    """All three kinds of pairs, for everyone and for each subgroup of the probes.

    `released_PD` are released faces of the rows `probes_P` of the clean ones (default: all, in order).
    """
    rows = np.arange(len(clean_ND)) if probes_P is None else probes_P
    groups = {ALL: np.ones(len(clean_ND), np.bool_), **(subgroups_N or {})}
    found = []
    for pair in PAIRS:
        gallery, columns = (released_PD, rows) if pair == "released" else (clean_ND, np.arange(len(clean_ND)))
        scores = _scores(released_PD, gallery)
        same = identities_N[rows][:, None] == identities_N[columns][None]
        itself = rows[:, None] == columns[None]
        if pair != "own":
            scores[itself] = -np.inf
        genuine = itself if pair == "own" else same & ~itself
        ranks = _ranks(scores, identities_N[rows], identities_N[columns])
        people = len(np.unique(identities_N[columns]))
        for name, members in groups.items():
            found.append(
                _one(pair, name, scores, genuine, same, ranks, members[rows], identities_N[rows], limits, people)
            )
    return found


def _scores(probes: Vectors, gallery: Vectors) -> NDArray[np.float64]:
    """Cosines. Ties, as between identical painted faces, are broken at random, or rank 1 would be certain."""
    cosines = np.asarray(probes, np.float64) @ np.asarray(gallery, np.float64).T
    return np.asarray(cosines + np.random.default_rng(0).uniform(0, 1e-9, cosines.shape))


def _ranks(scores: NDArray[np.float64], probe_ids: Ids, gallery_ids: Ids) -> NDArray[np.int64]:
    """How many people of the gallery look more alike than the own person; -1 where the own person is not in it."""
    order = np.argsort(gallery_ids, kind="stable")
    people, starts = np.unique(gallery_ids[order], return_index=True)
    best = np.maximum.reduceat(scores[:, order], starts, axis=1)
    own = best[np.arange(len(best)), np.searchsorted(people, probe_ids)]
    return np.where(np.isfinite(own), (best > own[:, None]).sum(1), -1)


def _one(
    pair: Pair, subgroup: str, scores: NDArray[np.float64], genuine: Mask, same: Mask, ranks: NDArray[np.int64],
    members_P: Mask, ids_P: Ids, limits: Thresholds, people: int,
) -> Matching:  # fmt: skip
    chosen = genuine & members_P[:, None]
    values, owners = scores[chosen], np.broadcast_to(ids_P[:, None], scores.shape)[chosen]
    strangers = scores[~same & members_P[:, None]]
    ranked = members_P & (ranks >= 0)
    return Matching(
        pair=pair,
        subgroup=subgroup,
        tar={far: clustered(values > limit, owners) for far, limit in limits.at.items()},
        false_accepts={
            far: float((strangers > limit).mean()) if len(strangers) else 0.0 for far, limit in limits.at.items()
        },
        rank={str(k): clustered(ranks[ranked] < k, ids_P[ranked]) for k in RANKS},
        chance={str(k): min(1.0, k / people) for k in RANKS},
        people=people,
        probes=int(members_P.sum()),
    )


def check_people(identities_N: Ids) -> None:
    """Raise DataError unless some person has two photos and there are at least two people."""
    _, counts = np.unique(identities_N, return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise DataError(
            f"expected several people with several photos each, got {len(counts)} people and at most "
            f"{counts.max() if len(counts) else 0} photos of one; re-identification cannot be measured on these"
        )
