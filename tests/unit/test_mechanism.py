"""The mechanism: epsilon is exact, closeness holds, and implausible combinations are not made."""

import doctest
import itertools
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonymousnet.align.region import FACE
from anonymousnet.config import ObfuscateConfig
from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.errors import ConfigError
from anonymousnet.privacy import mechanism as module
from anonymousnet.privacy.mechanism import UNIFORMS, Mechanism, covers
from anonymousnet.privacy.population import Population, celeba_population

SIX = ("Male", "Goatee", "No_Beard", "Smiling", "Young", "Bald")


def _vectors(names: tuple[str, ...]) -> np.ndarray:
    """All 2^A vectors over the named attributes; the others are absent."""
    vectors = np.zeros((2 ** len(names), 40), dtype=bool)
    vectors[:, [INDEX[name] for name in names]] = list(itertools.product([False, True], repeat=len(names)))
    return vectors


def _log_likelihoods(mechanism: Mechanism, vectors: np.ndarray) -> np.ndarray:
    """(truth, released) over all pairs."""
    n = len(vectors)
    return mechanism.log_likelihood(np.repeat(vectors, n, axis=0), np.tile(vectors, (n, 1))).reshape(n, n)


def _worst_ratio(logs: np.ndarray) -> float:
    logs = logs[:, logs.max(axis=0) > -np.inf]
    return float((logs.max(axis=0) - logs.min(axis=0)).max())


@st.composite
def mechanisms(draw: st.DrawFn, keeps: bool) -> tuple[Mechanism, tuple[str, ...]]:
    """A random population of 1 to 6 attributes with gaps, random groups, gammas and kept attributes."""
    names = SIX[: draw(st.integers(1, 6))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    vectors = _vectors(names)
    weights = rng.exponential(size=len(vectors)) ** draw(st.sampled_from([0.5, 2.0, 5.0]))
    weights[rng.random(len(vectors)) < draw(st.sampled_from([0.0, 0.4]))] = 0
    weights[rng.integers(len(vectors))] = 1
    table = vectors[rng.choice(len(vectors), size=600, p=weights / weights.sum())]
    home = rng.integers(0, draw(st.integers(1, 6)), size=len(names))
    groups = {f"g{h}": [n for n, own in zip(names, home, strict=True) if own == h] for h in set(home.tolist())}
    population = Population.learn(table, groups)
    gammas = {name: float(rng.choice([0.0, 0.03, 0.4, 0.9, 0.999]) * rng.uniform(0.9, 1)) for name in groups}
    keep = tuple(n for n in names if keeps and rng.random() < 0.3)
    return Mechanism(population, gammas, keep), names


def test_doctests():
    assert doctest.testmod(module).failed == 0


@given(mechanisms(keeps=False))
@settings(max_examples=60, deadline=None)
def test_epsilon_is_the_worst_ratio_over_all_pairs(case):
    mechanism, names = case
    logs = _log_likelihoods(mechanism, _vectors(names))
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, atol=1e-9)
    assert _worst_ratio(logs) == pytest.approx(mechanism.epsilon, abs=1e-9)
    assert sum(mechanism.epsilons.values()) == pytest.approx(mechanism.epsilon, abs=1e-9)
    assert min(mechanism.epsilons.values()) > -1e-12


@given(mechanisms(keeps=True))
@settings(max_examples=60, deadline=None)
def test_epsilon_with_kept_attributes_holds_between_those_that_agree_on_them(case):
    mechanism, names = case
    vectors = _vectors(names)
    logs = _log_likelihoods(mechanism, vectors)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, atol=1e-9)
    kept = vectors[:, [INDEX[name] for name in mechanism.unprotected]]
    agree = [(kept == pattern).all(axis=1) for pattern in np.unique(kept, axis=0)]
    assert max(_worst_ratio(logs[same]) for same in agree) == pytest.approx(mechanism.epsilon, abs=1e-9)
    released = mechanism.release(vectors, np.random.default_rng(0).random((len(vectors), UNIFORMS)))
    np.testing.assert_array_equal(released[:, [INDEX[n] for n in mechanism.unprotected]], kept)


@given(mechanisms(keeps=True), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_draws_follow_the_stated_likelihood(case, seed):
    """20,000 draws for one truth against the exact chances: chi-square within 6 standard deviations."""
    mechanism, names = case
    rng, vectors = np.random.default_rng(seed), _vectors(names)
    truth = vectors[[rng.integers(len(vectors))]]
    expected = 20_000 * np.exp(mechanism.log_likelihood(np.repeat(truth, len(vectors), 0), vectors))
    released = mechanism.release(np.repeat(truth, 20_000, axis=0), rng.random((20_000, UNIFORMS)))
    codes = released[:, [INDEX[n] for n in names]] @ (1 << np.arange(len(names))[::-1])
    found = np.bincount(codes, minlength=len(vectors))
    assert found[expected == 0].sum() == 0
    common = expected >= 5
    chi = ((found - expected)[common] ** 2 / expected[common]).sum()
    assert chi < common.sum() + 6 * math.sqrt(2 * common.sum())


@given(mechanisms(keeps=True), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_marginals_are_exact_and_within_t(case, seed):
    mechanism, names = case
    vectors = _vectors(names)
    truth = vectors[np.random.default_rng(seed).integers(len(vectors), size=3)]
    chances = np.exp(_log_likelihoods(mechanism, vectors))
    rows = [int(np.flatnonzero((vectors == row).all(axis=1))[0]) for row in truth]
    expected = chances[rows].mean(axis=0) @ vectors
    np.testing.assert_allclose(mechanism.marginals(truth), expected, atol=1e-9)
    off = np.abs(expected - mechanism.population.marginals_40)
    off[[INDEX[name] for name in mechanism.unprotected]] = 0
    assert off.max() <= mechanism.t + 1e-9


def _pair(chance_given: tuple[float, float]) -> Population:
    """1,000 rows: half Male; Smiling with the given shares among others and among Male."""
    table = np.zeros((1000, 40), dtype=bool)
    table[500:, INDEX["Male"]] = True
    for start, chance in zip((0, 500), chance_given, strict=True):
        table[start : start + round(500 * chance), INDEX["Smiling"]] = True
    return Population.learn(table, {})


def test_a_chain_worked_out_by_hand():
    """Male root, Smiling 0.2 and 0.8 beside it, both gamma 0.5.

    Beside released Male the truth is Male with chance 3/4, so Smiling is believed there with 3/4 * 0.8 + 1/4
    * 0.2 = 0.65; P = 0.8. A smile stays; no smile stays with 0.2/0.35 = 4/7. So P[smile | no smile] = 0.4 +
    0.5 * 3/7, P[no smile | no smile] = 0.1 + 0.5 * 4/7 against 0.1 from a smile. And Male itself: 0.75
    against 0.25.
    """
    mechanism = Mechanism(_pair((0.2, 0.8)), {"Male": 0.5, "Smiling": 0.5})
    vectors = _vectors(("Male", "Smiling"))
    likelihood = np.exp(_log_likelihoods(mechanism, vectors))
    none, smile, male, both = range(4)
    assert likelihood[male, both] == pytest.approx(0.75 * (0.4 + 0.5 * 3 / 7))
    assert likelihood[both, both] == pytest.approx(0.75 * 0.9)
    assert likelihood[none, male] == pytest.approx(0.25 * (0.1 + 0.5 * 4 / 7))
    assert likelihood[smile, male] == pytest.approx(0.25 * 0.1)
    assert mechanism.epsilon == pytest.approx(math.log(3) + math.log((0.1 + 0.5 * 4 / 7) / 0.1))


def test_a_population_is_released_as_itself():
    """Joint of parent and child, exactly: no pair is more frequent than in the population."""
    mechanism = Mechanism(_pair((0.02, 0.7)), {"Male": 0.3, "Smiling": 0.9})
    vectors = _vectors(("Male", "Smiling"))
    shares = np.array([0.5 * 0.98, 0.5 * 0.02, 0.5 * 0.3, 0.5 * 0.7])
    np.testing.assert_allclose(shares @ np.exp(_log_likelihoods(mechanism, vectors)), shares, atol=1e-12)


def test_truth_the_population_lacks_costs_nothing():
    """A clean-shaven goatee has no mass: it is taken for the nearest combination; epsilon stays finite."""
    table = np.zeros((1000, 40), dtype=bool)
    table[:500, INDEX["No_Beard"]] = True
    table[500:, INDEX["Goatee"]] = True
    mechanism = Mechanism(Population.learn(table), {"beard": 0.9})
    logs = _log_likelihoods(mechanism, _vectors(("Goatee", "No_Beard")))
    assert _worst_ratio(logs) == pytest.approx(math.log(1 + 0.9 / (0.1 * 0.5)), abs=1e-9)
    assert (logs[:, 0] == -np.inf).all()
    assert (logs[:, 3] == -np.inf).all()


def test_rows_are_released_independently_and_purely():
    rng = np.random.default_rng(0)
    mechanism = Mechanism.solve(celeba_population(), ObfuscateConfig(epsilon=30))
    truth, uniforms = rng.random((40_000, 40)) < 0.3, rng.random((40_000, UNIFORMS))
    whole = mechanism.release(truth, uniforms)
    assert np.array_equal(whole[20_000:20_005], mechanism.release(truth[20_000:20_005], uniforms[20_000:20_005]))
    assert mechanism.release(truth[:0], uniforms[:0]).shape == (0, 40)
    edge = np.stack([np.zeros(UNIFORMS), np.full(UNIFORMS, 1 - 2.0**-53)])
    assert np.isfinite(mechanism.log_likelihood(truth[:2], mechanism.release(truth[:2], edge))).all()
    with pytest.raises(ValueError, match="expected bool"):
        mechanism.release(truth.astype(float), uniforms)
    with pytest.raises(ValueError, match=r"uniforms: expected \(40000, 40\)"):
        mechanism.release(truth, uniforms[:, :5])


@pytest.mark.parametrize("split", ["equal", "sensitivity"])
@pytest.mark.parametrize("epsilon", [1.0, 30.0])
def test_epsilon_asked_for_is_epsilon_spent(split, epsilon):
    mechanism = Mechanism.solve(celeba_population(), ObfuscateConfig(epsilon=epsilon, split=split, follow=()))
    assert mechanism.epsilon == pytest.approx(epsilon, abs=1e-9)
    assert mechanism.epsilon <= epsilon
    assert sum(mechanism.epsilons.values()) == pytest.approx(epsilon, abs=1e-9)
    gammas = list(mechanism.gammas.values())
    assert (max(gammas) - min(gammas) < 1e-12) == (split == "sensitivity")


def test_gamma_t_protect_and_keep():
    population = celeba_population()
    plain = Mechanism.solve(population, ObfuscateConfig(epsilon=None, gamma=0.3, follow=()))
    assert set(plain.gammas.values()) == {0.3}
    capped = Mechanism.solve(population, ObfuscateConfig(epsilon=None, gamma=0.3, t=0.05, follow=()))
    assert capped.t <= 0.05
    assert capped.t > 0.0499
    assert capped.epsilon < plain.epsilon
    nothing = Mechanism.solve(population, ObfuscateConfig(epsilon=None, gamma=0))
    assert nothing.epsilon == 0

    protect = Mechanism.solve(population, ObfuscateConfig(epsilon=3, protect=("Smiling", "Young")))
    assert {name for name, gamma in protect.gammas.items() if gamma} == {"smile", "age"}
    assert protect.epsilon == pytest.approx(3, abs=1e-9)

    kept = Mechanism.solve(population, ObfuscateConfig(epsilon=3, keep=("Male", "Eyeglasses"), follow=()))
    assert kept.unprotected == ("Eyeglasses", "Male")
    assert kept.epsilon == pytest.approx(3, abs=1e-9)
    assert "Eyeglasses" not in kept.epsilons
    assert {"sex", "beard"} < set(kept.epsilons)

    everything = Mechanism.solve(population, ObfuscateConfig(keep=ATTRIBUTES))
    assert everything.epsilon == math.inf
    assert everything.epsilons == {}


def test_followed_attributes_cost_nothing_and_owe_the_face_nothing():
    population, rng = celeba_population(), np.random.default_rng(0)
    wanted = {"follow": ("Male", "Bald", "Smiling"), "keep": ("Bald",), "protect": ("Smiling", "Young")}
    config = ObfuscateConfig(epsilon=3, **wanted)
    assert config.followed == ("Male",)  # kept and protected attributes are left to those settings
    mechanism = Mechanism.solve(population, config)
    assert (mechanism.unprotected, mechanism.followed) == (("Bald",), ("Male",))
    assert mechanism.epsilon == pytest.approx(3, abs=1e-9)
    faces, around = rng.random((2, 500, 40)) < 0.4
    released = mechanism.release(mechanism.seen(faces, around), rng.random((500, UNIFORMS)))
    assert (released[:, INDEX["Male"]] == around[:, INDEX["Male"]]).all()
    assert (released[:, INDEX["Bald"]] == faces[:, INDEX["Bald"]]).all()

    # Another sex in the face, the same surroundings: the very same release.
    uniforms = rng.random((500, UNIFORMS))
    others = faces.copy()
    others[:, INDEX["Male"]] ^= True
    one, other = (mechanism.release(mechanism.seen(x, around), uniforms) for x in (faces, others))
    assert (one == other).all()
    # What is drawn is drawn for the sex that shows: hardly a beard where that is female.
    women = ~around[:, INDEX["Male"]]
    assert released[women, INDEX["Goatee"]].mean() < 0.01
    assert "Read in the surroundings, not in the face: Male" in covers(mechanism, 1.0, FACE, True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epsilon": None, "gamma": 1.0}, "no protection"),
        ({"epsilon": math.inf}, "no protection.*gamma: 0"),
        ({"epsilon": 5000.0}, "no protection.*expected less than"),
        ({"epsilon": 3.0, "t": 0.01, "keep": ("Male",)}, "cannot be held.*obfuscate.keep and obfuscate.follow"),
    ],
)
def test_settings_that_cannot_be_had(setting, message):
    with pytest.raises(ConfigError, match=message):
        Mechanism.solve(celeba_population(), ObfuscateConfig(**setting))


def test_epsilon_zero_and_unknown_names_are_refused():
    population = celeba_population()
    with pytest.raises(ConfigError, match="above 0, got 0"):
        Mechanism.solve(population, ObfuscateConfig.model_construct(epsilon=0.0, gamma=None))
    with pytest.raises(ConfigError, match="unknown groups or attributes beards"):
        Mechanism(population, {"beards": 0.1})
    with pytest.raises(ConfigError, match="unknown groups or attributes Beard"):
        Mechanism(population, {}, ("Beard",))


def test_fingerprint_stands_for_the_settings():
    population = celeba_population()
    one, same, other, kept = (
        Mechanism.solve(population, ObfuscateConfig(**setting))
        for setting in ({"epsilon": 3}, {"epsilon": 3.0}, {"epsilon": 4}, {"epsilon": 3, "keep": ("Male",)})
    )
    assert one.fingerprint == same.fingerprint
    plain = [Mechanism(population, {"hair": gamma}).fingerprint for gamma in (0.1, 0.2)]
    assert len({one.fingerprint, other.fingerprint, kept.fingerprint, *plain}) == 5
    assert len(one.fingerprint) == 32


def test_words_promise_the_pixels_only_at_full_strength():
    mechanism = Mechanism.solve(celeba_population(), ObfuscateConfig(epsilon=10, keep=("Smiling",)))
    promise = "epsilon-DP for the pixels"
    assert promise in covers(mechanism, 1.0, FACE, True)
    assert "epsilon 10 per face" in covers(mechanism, 1.0, FACE, True)
    for strength, guarantee in [(1.0, False), (0.8, True), (0.0, True), (0.2, False)]:
        assert promise not in covers(mechanism, strength, FACE, guarantee)
        assert "Not the pixels" in covers(mechanism, strength, FACE, guarantee)
        assert "except Smiling" in covers(mechanism, strength, FACE, guarantee)
    assert promise not in covers(Mechanism(celeba_population(), {}, ATTRIBUTES), 1.0, FACE, True)


@pytest.fixture(scope="module")
def real_table(tmp_path_factory) -> np.ndarray:
    """All 202,599 rows of CelebA's list."""
    folder = Path(os.environ.get("ANONYMOUSNET_CELEBA", Path(__file__).parents[3] / "shared" / "celeba"))
    path = folder / "list_attr_celeba.txt"
    if not path.exists() and (folder / "labels.zip").exists():
        path = tmp_path_factory.mktemp("celeba") / "list_attr_celeba.txt"
        with zipfile.ZipFile(folder / "labels.zip") as archive:
            path.write_bytes(archive.read("list_attr_celeba.txt"))
    if not path.exists():
        pytest.skip(f"NOT CHECKED ON REAL DATA: no CelebA list in {folder}; set ANONYMOUSNET_CELEBA to its folder")
    lines = path.read_bytes().split(b"\n", 2)
    assert lines[1].split() == [name.encode() for name in ATTRIBUTES]
    return np.array(lines[2].split(), dtype="S10").reshape(int(lines[0]), 41)[:, 1:] == b"1"


def _together(table: np.ndarray) -> dict[tuple[bool, bool], np.ndarray]:
    """Share of rows for each pair of attributes (40, 40) and each pair of their values."""
    has = {True: table.astype(np.float32), False: (~table).astype(np.float32)}
    return {(a, b): has[a].T @ has[b] / len(table) for a in has for b in has}


@pytest.mark.celeba
@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_on_celebas_real_table(real_table, gamma):
    """200,000 draws: marginals gamma q + (1-gamma) p (here q = p), forbidden pairs as rare as in CelebA."""
    rng = np.random.default_rng(1)
    mechanism = Mechanism.solve(celeba_population(), ObfuscateConfig(epsilon=None, gamma=gamma, follow=()))
    truth = real_table[rng.choice(len(real_table), 200_000, replace=False)]
    released = mechanism.release(truth, rng.random((len(truth), UNIFORMS)))
    p = real_table.mean(axis=0)
    error = np.sqrt(p * (1 - p) / len(truth))
    assert (np.abs(released.mean(axis=0) - p) / error).max() < 4
    assert (np.abs(released.mean(axis=0) - mechanism.marginals(truth)) / error).max() < 4

    before, after = _together(real_table), _together(released)
    hair = [INDEX[name] for name in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")]
    for i, j in itertools.combinations(hair, 2):
        _no_more_frequent(before[True, True][i, j], after[True, True][i, j], len(truth))
    for name in ("Goatee", "Mustache", "Sideburns"):
        for other in ("No_Beard", "Heavy_Makeup", "Wearing_Lipstick"):
            pair = INDEX[name], INDEX[other]
            _no_more_frequent(before[True, True][pair], after[True, True][pair], len(truth))
    groups = {group.name: group for group in mechanism.population.groups}
    for group in groups.values():
        near = group.columns + (groups[group.parent].columns if group.parent else [])
        for i, j, values in itertools.product(group.columns, near, before):
            if i != j and before[values][i, j] < 1e-3:
                _no_more_frequent(before[values][i, j], after[values][i, j], len(truth))


def _no_more_frequent(before: float, after: float, rows: int) -> None:
    """Up to chance: at most 4 standard errors above; never where the population has none."""
    assert after <= before + 4 * math.sqrt(before / rows)


@pytest.mark.celeba
def test_a_one_sided_data_set_moves_towards_the_population(real_table):
    rng = np.random.default_rng(2)
    mechanism = Mechanism.solve(celeba_population(), ObfuscateConfig(epsilon=30, follow=()))
    truth = real_table[~real_table[:, INDEX["Male"]]]
    released = mechanism.release(truth, rng.random((len(truth), UNIFORMS))).mean(axis=0)
    expected, p = mechanism.marginals(truth), mechanism.population.marginals_40
    assert (np.abs(released - expected) / np.sqrt(expected * (1 - expected) / len(truth))).max() < 4
    male, gamma = INDEX["Male"], mechanism.gammas["sex"]
    assert expected[male] == pytest.approx((1 - gamma) * p[male], abs=2e-3)
    assert np.abs(expected - p).max() <= mechanism.t
    assert np.abs(expected - p).sum() < 0.6 * np.abs(truth.mean(axis=0) - p).sum()
