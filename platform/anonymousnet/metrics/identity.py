"""Verification and identification rates, each with a 95 % interval. Thresholds come from clean impostors alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anonymousnet.errors import DataError

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of trials and its Wilson 95 % interval."""

    value: float
    low: float
    high: float
    trials: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] of {self.trials}"


def wilson(successes: int, trials: int) -> Rate:
    """Wilson's score interval (Wilson, JASA 1927).

    >>> str(wilson(5, 100))
    '0.0500 [0.0215, 0.1118] of 100'
    """
    if trials == 0:
        return Rate(float("nan"), 0.0, 1.0, 0)
    p, z2 = successes / trials, Z95**2
    middle = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return Rate(p, max(0.0, middle - half), min(1.0, middle + half), trials)


def impostor_scores(embeddings_ND: NDArray[np.floating], identities_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosines of all pairs of different people, in no order."""
    cosines = embeddings_ND @ embeddings_ND.T
    upper = np.triu_indices(len(cosines), 1)
    return np.asarray(cosines[upper][identities_N[upper[0]] != identities_N[upper[1]]], np.float64)


def genuine_scores(embeddings_ND: NDArray[np.floating], identities_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosines of all pairs of the same person."""
    cosines = embeddings_ND @ embeddings_ND.T
    upper = np.triu_indices(len(cosines), 1)
    return np.asarray(cosines[upper][identities_N[upper[0]] == identities_N[upper[1]]], np.float64)


def threshold_at(impostors: NDArray[np.float64], far: float) -> float:
    """The score that a share `far` of impostors exceeds.

    Raises DataError when there are under 10 / far impostors: such a threshold would be a guess.
    """
    if len(impostors) * far < 10:
        raise DataError(
            f"a false-accept rate of {far:g} needs at least {round(10 / far)} impostor pairs, got {len(impostors)}; "
            "use more identities or a larger rate"
        )
    return float(np.quantile(impostors, 1 - far))


def tar(genuine: NDArray[np.float64], threshold: float) -> Rate:
    """True-accept rate: the share of genuine pairs above the threshold."""
    return wilson(int((genuine > threshold).sum()), len(genuine))


def rank_k(
    probes_ND: NDArray[np.floating],
    probe_identities: NDArray[np.int64],
    gallery_MD: NDArray[np.floating],
    gallery_identities: NDArray[np.int64],
    k: int,
) -> Rate:
    """Share of probes whose person is among the k most similar people of the gallery. Chance is k / people."""
    cosines = probes_ND @ gallery_MD.T
    people = np.unique(gallery_identities)
    best = np.stack([cosines[:, gallery_identities == person].max(1) for person in people], 1)
    own = best[np.arange(len(best)), np.searchsorted(people, probe_identities)]
    return wilson(int(((best > own[:, None]).sum(1) < k).sum()), len(best))
