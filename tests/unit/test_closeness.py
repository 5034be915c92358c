"""Closeness, k-anonymity and l-diversity, against pyCANON's answers and against brute force."""

import doctest
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.errors import ConfigError, DataError
from anonymousnet.privacy import closeness
from anonymousnet.privacy.closeness import (
    attribute_distances,
    class_distances,
    codes,
    equivalence_classes,
    group_distances,
    joint_distance,
    k_anonymity,
    l_diversity,
    t_closeness,
)
from anonymousnet.privacy.population import Population, celeba_population

ANSWERS = json.loads((Path(__file__).parents[1] / "data" / "pycanon_answers.json").read_text())


def _random(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 40)) < celeba_population().marginals_40


def test_doctests():
    assert doctest.testmod(closeness).failed == 0


@pytest.mark.parametrize("case", ANSWERS["cases"], ids=lambda case: f"{len(case['sensitive'])}-rows")
def test_same_answers_as_pycanon(case):
    quasi = np.array(case["quasi"]).T
    classes = np.unique(quasi, axis=0, return_inverse=True)[1].reshape(-1)
    values = np.array(case["sensitive"])
    assert k_anonymity(classes) == case["k"]
    assert l_diversity(classes, values) == case["l"]
    assert abs(t_closeness(classes, values) - case["t"]) < 1e-12


def test_attribute_distances_are_differences_of_shares():
    table, population = _random(5000), celeba_population()
    found = attribute_distances(table, population)
    assert list(found) == list(ATTRIBUTES)
    for name, distance in found.items():
        share = table[:, INDEX[name]].mean()
        assert distance.t == pytest.approx(abs(share - population.marginals_40[INDEX[name]]), abs=1e-15)
        assert distance.low <= distance.high
        assert distance.t <= distance.high
    # Drawn from the population: about 5 % of 40 may exceed what chance explains.
    assert sum(distance.t > distance.chance for distance in found.values()) <= 6
    other = attribute_distances(table, table[:2500])
    assert other["Young"].t == abs(table[:, INDEX["Young"]].mean() - table[:2500, INDEX["Young"]].mean())


def test_an_equivalence_class_shows_its_distance():
    table, population = _random(5000), celeba_population()
    women = table[~table[:, INDEX["Male"]]]
    male = attribute_distances(women, population)["Male"]
    assert male.t == pytest.approx(population.marginals_40[INDEX["Male"]])
    assert male.low > male.chance
    labels = equivalence_classes(table, ["Male", "Young"])
    by_class = class_distances(labels, codes(table, ["Male"]))
    assert by_class.shape == (4,)
    assert by_class.max() == t_closeness(labels, codes(table, ["Male"]))


def test_joint_distance_is_half_the_sum_of_differences():
    one, other = _random(3000, 1), _random(3000, 2)
    names = ["Smiling", "Young", "Male"]
    expected = 0.0
    for values in itertools.product([False, True], repeat=3):
        rows = [(t[:, [INDEX[n] for n in names]] == values).all(axis=1).mean() for t in (one, other)]
        expected += abs(rows[0] - rows[1]) / 2
    distance = joint_distance(one, other, names)
    assert distance.t == pytest.approx(expected, abs=1e-14)
    assert distance.low < distance.t < distance.high
    assert joint_distance(one, one, names).t == 0


def test_the_population_is_at_no_distance_from_itself():
    """Joints summed over the tree equal the counts in a table made of the tree's own chances."""
    rng = np.random.default_rng(0)
    table = np.zeros((4000, 40), dtype=bool)
    table[:, INDEX["Male"]] = rng.random(4000) < 0.4
    table[:, INDEX["Smiling"]] = rng.random(4000) < np.where(table[:, INDEX["Male"]], 0.2, 0.8)
    table[:, INDEX["Young"]] = rng.random(4000) < np.where(table[:, INDEX["Smiling"]], 0.3, 0.6)
    population = Population.learn(table)
    assert {g.name: g.parent for g in population.groups}["age"] == "smile"
    for name, distance in group_distances(table, population).items():
        assert distance.t < 1e-12, name
    assert joint_distance(table, population, ["Young", "Smiling"]).t < 1e-12
    # Male and Young are connected through Smiling only: there the tree is not the table, but adds up.
    joint = population.joint(["Young", "Smiling", "Male", "Bald"])
    assert joint.sum() == pytest.approx(1)
    smiling, young = table[:, INDEX["Smiling"]], table[:, INDEX["Young"]]
    male = table[:, INDEX["Male"]]
    expected = (smiling & male).mean() * (smiling & young).mean() / smiling.mean()
    assert joint[0b0111] == pytest.approx(expected, abs=1e-12)
    assert joint[8:].sum() == 0


def test_interval_covers_the_true_distance():
    """95 % intervals of a distance that is there contain it in most of 60 samples."""
    population = celeba_population()
    p, q = population.marginals_40[INDEX["Young"]], 0.5
    hits = 0
    for seed in range(60):
        table = np.zeros((400, 40), dtype=bool)
        table[:, INDEX["Young"]] = np.random.default_rng(seed).random(400) < q
        distance = attribute_distances(table, population, seed)["Young"]
        hits += distance.low <= p - q <= distance.high
    assert hits >= 52


def test_202599_rows_take_well_under_a_second():
    table, population = _random(202_599), celeba_population()
    population.joint(["Male"])
    started = time.process_time()
    attribute_distances(table, population)
    group_distances(table, population)
    labels = equivalence_classes(table, ["Male", "Young", "Smiling", "Bald"])
    k_anonymity(labels)
    t_closeness(labels, codes(table, ["Eyeglasses", "Chubby"]))
    assert time.process_time() - started < 2  # 0.2 s of processor time when the machine is idle


def test_bad_input():
    table = _random(10)
    with pytest.raises(ConfigError, match="unknown: Beard"):
        codes(table, ["Beard"])
    with pytest.raises(ConfigError, match="different attributes"):
        codes(table, ["Male", "Male"])
    with pytest.raises(ConfigError, match="got 13"):
        joint_distance(table, table, ATTRIBUTES[:13])
    with pytest.raises(DataError, match="at least 1"):
        attribute_distances(table[:0], celeba_population())
    with pytest.raises(DataError, match="got float64"):
        attribute_distances(table.astype(float), celeba_population())
    with pytest.raises(DataError, match="one value per row"):
        t_closeness(np.zeros(3, int), np.zeros(4, int))
