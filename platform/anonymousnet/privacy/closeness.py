"""How far a release is from the population: t per attribute, per group and for any set, with intervals.

The distance is total variation, half the sum of |q - p| over the values: the earth mover's distance when all
values of a category are equally far apart, as t-closeness (Li, Li & Venkatasubramanian 2007) and pyCANON
define it. For one attribute it is |q - p|, the difference of two shares.

    attribute_distances(released_N40, celeba_population())["Young"].t
    classes = equivalence_classes(released_N40, ["Male", "Young"])
    t_closeness(classes, codes(released_N40, ["Smiling"])), k_anonymity(classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.errors import ConfigError, DataError
from anonymousnet.privacy.population import Population

Table = NDArray[np.bool_]
REPEATS = 1000
"""Resamples behind each interval."""
MAX_SET = 12
"""Most attributes in one joint distance: their 2^12 combinations are counted."""


@dataclass(frozen=True, slots=True)
class Distance:
    """A distance from the population, 0 (the same) to 1."""

    t: float
    """As found in the release."""
    low: float
    """Bounds of the 95 % percentile bootstrap interval over the release's rows."""
    high: float
    chance: float
    """What 95 % of samples of this size from the population itself stay below: a t under it shows nothing."""


def attribute_distances(release_N40: Table, reference: Population | Table, seed: int = 0) -> dict[str, Distance]:
    """Distance of each of the 40 attributes. `release_N40` may be one equivalence class of a release."""
    n, rng = len(_checked(release_N40)), np.random.default_rng(seed)
    q, p = release_N40.mean(axis=0), _marginals(reference)
    # The share in a resample of n rows is binomial, so no rows need be drawn.
    resampled = np.abs(rng.binomial(n, q, size=(REPEATS, len(ATTRIBUTES))) / n - p)
    by_chance = np.abs(rng.binomial(n, p, size=(REPEATS, len(ATTRIBUTES))) / n - p)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    rows = zip(np.abs(q - p), low, high, np.quantile(by_chance, 0.95, axis=0), strict=True)
    return {name: Distance(*(float(x) for x in row)) for name, row in zip(ATTRIBUTES, rows, strict=True)}


def group_distances(release_N40: Table, population: Population, seed: int = 0) -> dict[str, Distance]:
    """Distance of the joint distribution of each of the population's groups."""
    return {group.name: joint_distance(release_N40, population, group.attributes, seed) for group in population.groups}


def joint_distance(release_N40: Table, reference: Population | Table, names: Sequence[str], seed: int = 0) -> Distance:
    """Distance of the joint distribution of up to MAX_SET attributes.

    Against a Population the reference is its tree, which is exact within a group and between a group and its
    parent; against a table it is the table.
    """
    n, rng, size = len(_checked(release_N40)), np.random.default_rng(seed), 2 ** len(_known(names))
    q = np.bincount(codes(release_N40, names), minlength=size) / n
    if isinstance(reference, Population):
        p = reference.joint(names)
    else:
        p = np.bincount(codes(_checked(reference), names), minlength=size) / len(reference)
    seen = (q > 0) | (p > 0)
    q, p = q[seen] / q[seen].sum(), p[seen] / p[seen].sum()
    resampled = np.abs(rng.multinomial(n, q, size=REPEATS) / n - p).sum(axis=1) / 2
    by_chance = np.abs(rng.multinomial(n, p, size=REPEATS) / n - p).sum(axis=1) / 2
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Distance(float(np.abs(q - p).sum() / 2), float(low), float(high), float(np.quantile(by_chance, 0.95)))


def codes(table_N40: Table, names: Sequence[str]) -> NDArray[np.int64]:
    """One number per row for its values of the named attributes; the first name is the lowest bit.

    >>> table = np.zeros((2, 40), dtype=bool); table[1, INDEX["Young"]] = True
    >>> codes(table, ["Male", "Young"]).tolist()
    [0, 2]
    """
    code = np.zeros(len(table_N40), dtype=np.int64)
    for bit, name in enumerate(_known(names)):
        code |= table_N40[:, INDEX[name]].astype(np.int64) << bit
    return code


def equivalence_classes(table_N40: Table, names: Sequence[str]) -> NDArray[np.int64]:
    """Label, 0 and up, of the class of rows that share their values of the named attributes."""
    return np.unique(codes(_checked(table_N40), names), return_inverse=True)[1].reshape(-1)


def k_anonymity(classes_N: NDArray[np.int64]) -> int:
    """Rows in the smallest class.

    >>> k_anonymity(np.array([0, 0, 0, 1, 1]))
    2
    """
    return int(np.bincount(classes_N).min())


def l_diversity(classes_N: NDArray[np.int64], values_N: NDArray[np.int64]) -> int:
    """Fewest different sensitive values in one class.

    >>> l_diversity(np.array([0, 0, 0, 1, 1]), np.array([1, 2, 2, 3, 3]))
    1
    """
    return int((_contingency(classes_N, values_N) > 0).sum(axis=1).min())


def t_closeness(classes_N: NDArray[np.int64], values_N: NDArray[np.int64]) -> float:
    """Largest distance of a class's sensitive values from those of all rows.

    >>> t_closeness(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.25
    """
    return float(class_distances(classes_N, values_N).max())


def class_distances(classes_N: NDArray[np.int64], values_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance of each class's sensitive values from those of all rows, by label."""
    counts_CV = _contingency(classes_N, values_N)
    share_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    return np.asarray(np.abs(share_CV - counts_CV.sum(axis=0) / len(values_N)).sum(axis=1) / 2)


def _contingency(classes_N: NDArray[np.int64], values_N: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(classes_N) == 0 or classes_N.shape != values_N.shape:
        raise DataError(f"expected one value per row of at least one, got {classes_N.shape} and {values_N.shape}")
    found, values = np.unique(values_N, return_inverse=True)
    labels, classes = np.unique(classes_N, return_inverse=True)
    counts = np.bincount(classes * len(found) + values, minlength=len(labels) * len(found))
    return counts.reshape(len(labels), len(found))


def _checked(table_N40: Table) -> Table:
    if (
        table_N40.ndim != 2
        or table_N40.shape[1] != len(ATTRIBUTES)
        or table_N40.dtype != np.bool_
        or not len(table_N40)
    ):
        raise DataError(
            f"release: expected bool of shape (N, {len(ATTRIBUTES)}) with N of at least 1, got {table_N40.dtype} of "
            f"shape {table_N40.shape}"
        )
    return table_N40


def _known(names: Sequence[str]) -> Sequence[str]:
    unknown = sorted(set(names) - set(INDEX))
    if unknown or len(set(names)) != len(names) or not 1 <= len(names) <= MAX_SET:
        raise ConfigError(
            f"expected 1 to {MAX_SET} different attributes out of CelebA's 40, got {len(names)}"
            + (f", of which unknown: {', '.join(unknown)}" if unknown else "")
        )
    return names


def _marginals(reference: Population | Table) -> NDArray[np.float64]:
    return reference.marginals_40 if isinstance(reference, Population) else _checked(reference).mean(axis=0)
