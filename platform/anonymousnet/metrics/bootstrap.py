"""95 % intervals for faces of which several are one person's: resampling of people (Efron, 1979). Deterministic."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from anonymousnet.metrics.identity import Rate, wilson

RESAMPLES = 1000


def clustered(success_N: NDArray[np.bool_], clusters_N: NDArray[np.int64]) -> Rate:
    """A share and its 95 % interval when trials of one cluster (a person) stand or fall together.

    The wider, on each side, of Wilson's interval over trials and a bootstrap over clusters: the first alone takes
    photos of one person for independent, the second alone is [0, 0] where nothing succeeded.
    """
    plain = wilson(int(success_N.sum()), len(success_N))
    if not len(success_N):
        return plain
    sums, trials = totals(success_N, clusters_N), totals(np.ones(len(success_N)), clusters_N)
    low, high = interval(resampled(sums, trials))
    return Rate(plain.value, min(plain.low, low), max(plain.high, high), plain.trials)


def totals(values_N: NDArray[np.generic], clusters_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each cluster's sum, (G, ...) of values (N, ...), in ascending order of the clusters."""
    _, where = np.unique(clusters_N, return_inverse=True)
    sums = np.zeros((int(where.max(initial=-1)) + 1, *values_N.shape[1:]))
    np.add.at(sums, where, values_N.astype(np.float64))
    return sums


def resampled(sums_G: NDArray[np.float64], trials_G: NDArray[np.float64]) -> NDArray[np.float64]:
    """(RESAMPLES, ...) means over drawn clusters, given each one's sum and number of trials (G, ...); NaN where no
    trial was drawn."""
    drawn_RG = _draws(len(sums_G))
    with np.errstate(invalid="ignore"):
        return np.asarray((drawn_RG @ sums_G) / (drawn_RG @ trials_G), np.float64)


def interval(resamples_R: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of resampled values, those that could not be had left aside."""
    low, high = np.nanquantile(resamples_R, (0.025, 0.975))
    return float(low), float(high)


@functools.lru_cache(maxsize=8)
def _draws(clusters: int) -> NDArray[np.float64]:
    """How often each cluster is drawn in each resample."""
    even = np.full(clusters, 1 / clusters)
    return np.random.default_rng(0).multinomial(clusters, even, RESAMPLES).astype(np.float64)
