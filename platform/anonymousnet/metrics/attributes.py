"""Scores of an attribute classifier, never without the baseline they must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.metrics.bootstrap import interval, resampled, totals


@dataclass(frozen=True, slots=True)
class AttributeScores:
    """Per attribute, (40,) each, and their means. All are shares, 0 to 1; NaN where a class is absent."""

    accuracy: NDArray[np.float64]
    balanced: NDArray[np.float64]
    majority: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    calibration_error: NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """Means over the attributes that can be scored."""
        return {name: float(np.nanmean(getattr(self, name))) for name in self.__slots__}

    def table(self) -> list[dict[str, float | str]]:
        """A row per attribute."""
        return [
            {"attribute": name, **{score: round(float(getattr(self, score)[i]), 4) for score in self.__slots__}}
            for i, name in enumerate(ATTRIBUTES)
        ]


def score_attributes(
    probabilities_N40: NDArray[np.floating], truth_N40: NDArray[np.bool_], majority_40: NDArray[np.bool_] | None = None,
    thresholds_40: NDArray[np.floating] | float = 0.5,
) -> AttributeScores:  # fmt: skip
    """Score probabilities in [0, 1], above `thresholds_40` a yes, against booleans.

    `majority_40`: the answer that the baseline always gives (the training set's majority); by default the majority of
    `truth` itself, which is the stricter baseline.
    """
    said = probabilities_N40 > thresholds_40
    if majority_40 is None:
        majority_40 = truth_N40.mean(0) > 0.5
    with np.errstate(invalid="ignore"):
        recall = (said & truth_N40).sum(0) / truth_N40.sum(0)
        specificity = (~said & ~truth_N40).sum(0) / (~truth_N40).sum(0)
    return AttributeScores(
        accuracy=(said == truth_N40).mean(0),
        balanced=(recall + specificity) / 2,
        majority=(truth_N40 == majority_40).mean(0),
        average_precision=np.array(
            [average_precision(probabilities_N40[:, i], truth_N40[:, i]) for i in range(truth_N40.shape[1])]
        ),
        calibration_error=np.array(
            [calibration_error(probabilities_N40[:, i], truth_N40[:, i]) for i in range(truth_N40.shape[1])]
        ),
    )


def mean_intervals(
    said_N40: NDArray[np.bool_], truth_N40: NDArray[np.bool_], people_N: NDArray[np.int64]
) -> dict[str, tuple[float, float]]:
    """95 % intervals over people of the means over attributes of `accuracy` and `balanced` accuracy.

    In a resample without a yes or without a no of an attribute, that attribute is left out of the balanced mean.
    """

    def rate(right_N40: NDArray[np.bool_], trials_N40: NDArray[np.bool_]) -> NDArray[np.float64]:
        return resampled(totals(right_N40 & trials_N40, people_N), totals(trials_N40, people_N))

    recall, specificity = rate(said_N40, truth_N40), rate(~said_N40, ~truth_N40)
    return {
        "accuracy": interval(rate(said_N40 == truth_N40, np.ones_like(truth_N40)).mean(1)),
        "balanced": interval(np.nanmean((recall + specificity) / 2, 1)),
    }


def decision_thresholds(prevalence_40: NDArray[np.floating], balance: float) -> NDArray[np.float64]:
    """The thresholds on calibrated probabilities that maximise accuracy + `balance` x balanced accuracy.

    A right yes then weighs 1 + balance / (2 prevalence), a right no 1 + balance / (2 (1 - prevalence)), and Bayes' rule
    says yes where the expected weight is larger (Elkan, IJCAI 2001, eq. 2). Prevalences of 0 or 1 are counted as 1e-6
    from it. 0 gives 0.5 for all; the larger the balance, the nearer to the prevalence.

    >>> decision_thresholds(np.array([0.1, 0.5]), 0.2).round(3).tolist()
    [0.357, 0.5]
    """
    share = np.clip(prevalence_40, 1e-6, 1 - 1e-6)
    yes, no = 1 + balance / (2 * share), 1 + balance / (2 * (1 - share))
    return np.asarray(no / (yes + no))


def average_precision(scores_N: NDArray[np.floating], truth_N: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps; chance is the prevalence.

    >>> average_precision(np.array([.9, .8, .1]), np.array([True, False, True]))
    0.8333333333333333
    """
    if not truth_N.any():
        return float("nan")
    ranked = truth_N[np.argsort(-scores_N, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def calibration_error(probabilities_N: NDArray[np.floating], truth_N: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over equal-width bins (Guo et al., ICML 2017, eq. 5).

    >>> calibration_error(np.array([1., 1., 0., 0.]), np.array([True, True, False, True]))
    0.25
    """
    index = np.minimum((probabilities_N * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=probabilities_N - truth_N, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth_N))
