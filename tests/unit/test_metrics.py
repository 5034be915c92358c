"""Scores against values worked out by hand; every rate has its interval, every accuracy its baseline."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from anonymousnet.errors import DataError
from anonymousnet.metrics import attributes, identity


@pytest.mark.parametrize("module", [attributes, identity])
def test_doctests(module: object) -> None:
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0  # type: ignore[arg-type]


def test_a_constant_answer_scores_its_majority_and_half_balanced() -> None:
    truth = np.zeros((100, 40), bool)
    truth[:20] = True
    scores = attributes.score_attributes(np.zeros((100, 40)), truth)
    assert scores.means()["accuracy"] == pytest.approx(0.8) == scores.means()["majority"]
    assert scores.means()["balanced"] == pytest.approx(0.5)


def test_a_perfect_answer_scores_one_everywhere() -> None:
    truth = np.random.default_rng(0).random((200, 40)) < 0.3
    means = attributes.score_attributes(truth.astype(float), truth).means()
    assert means["accuracy"] == means["balanced"] == means["average_precision"] == 1
    assert means["calibration_error"] == 0


def test_an_attribute_nobody_has_does_not_spoil_the_means() -> None:
    truth = np.random.default_rng(0).random((200, 40)) < 0.3
    truth[:, 4] = False
    assert np.isfinite(list(attributes.score_attributes(truth.astype(float), truth).means().values())).all()


def test_chance_average_precision_is_the_prevalence() -> None:
    rng = np.random.default_rng(0)
    assert attributes.average_precision(rng.random(20000), rng.random(20000) < 0.2) == pytest.approx(0.2, abs=0.02)


def test_the_thresholds_are_the_best_there_are() -> None:
    rng, balance = np.random.default_rng(0), 0.2
    chances = rng.beta(0.4, 2.0, (40_000, 40))
    truth = rng.random(chances.shape) < chances

    def worth(thresholds: np.ndarray | float) -> float:
        means = attributes.score_attributes(chances, truth, None, thresholds).means()
        return means["accuracy"] + balance * means["balanced"]

    best = attributes.decision_thresholds(truth.mean(0), balance)
    assert worth(best) > max(worth(other) for other in (0.5, best - 0.08, best + 0.08, truth.mean(0)))
    assert attributes.decision_thresholds(truth.mean(0), 0.0) == pytest.approx(0.5)
    assert np.isfinite(attributes.decision_thresholds(np.array([0.0, 1.0]), balance)).all()


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    rates = [identity.wilson(int(k), 50) for k in rng.binomial(50, 0.1, 2000)]
    assert 0.93 < np.mean([r.low <= 0.1 <= r.high for r in rates]) <= 0.99


def test_no_trials_no_claim() -> None:
    rate = identity.wilson(0, 0)
    assert np.isnan(rate.value)
    assert (rate.low, rate.high) == (0, 1)


def people(n: int, each: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(n), each)
    vectors = rng.normal(size=(n, 64))[who] + noise * rng.normal(size=(n * each, 64))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), who


def test_thresholds_give_the_rate_they_were_set_for() -> None:
    vectors, who = people(80, 3, 1.0)
    impostors = identity.impostor_scores(vectors, who)
    assert (impostors > identity.threshold_at(impostors, 0.01)).mean() == pytest.approx(0.01, abs=1e-3)


def test_too_few_impostors_for_a_rate_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="needs at least 10000 impostor pairs, got 500"):
        identity.threshold_at(np.zeros(500), 1e-3)


def test_clear_people_are_verified_and_found_unclear_ones_are_not() -> None:
    for noise, low, high in [(0.2, 0.99, 1.0), (50.0, 0.0, 0.06)]:
        vectors, who = people(80, 3, noise)
        threshold = identity.threshold_at(identity.impostor_scores(vectors, who), 0.01)
        assert low <= identity.tar(identity.genuine_scores(vectors, who), threshold).value <= high
        probes, gallery = vectors[::3], np.delete(vectors, np.s_[::3], 0)
        rank = identity.rank_k(probes, who[::3], gallery, np.delete(who, np.s_[::3]), 1)
        assert low <= rank.value <= high


def test_rank_k_grows_with_k() -> None:
    vectors, who = people(40, 2, 3.0)
    rates = [identity.rank_k(vectors[::2], who[::2], vectors[1::2], who[1::2], k).value for k in (1, 5, 40)]
    assert rates == sorted(rates)
    assert rates[-1] == 1
