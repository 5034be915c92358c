"""The population: counts, trees, and the file they are kept in."""

import json
from pathlib import Path

import numpy as np
import pytest

from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.errors import ConfigError, DataError
from anonymousnet.privacy.groups import MIN_COUNT, nearest
from anonymousnet.privacy.population import Population, celeba_population


def _table(rows: int = 2000, seed: int = 0) -> np.ndarray:
    """Smiling depends on Male; everything else is absent."""
    rng = np.random.default_rng(seed)
    table = np.zeros((rows, 40), dtype=bool)
    table[:, INDEX["Male"]] = rng.random(rows) < 0.4
    table[:, INDEX["Smiling"]] = rng.random(rows) < np.where(table[:, INDEX["Male"]], 0.2, 0.8)
    return table


def test_learned_tree_joins_what_depends_and_counts_it():
    table = _table()
    population = Population.learn(table, {}, "test")
    groups = {group.name: group for group in population.groups}
    smiling, male = groups["Smiling"], groups["Male"]
    assert {smiling.parent, male.parent} == {None, "Smiling" if smiling.parent is None else "Male"}
    assert groups["Bald"].parent is None
    assert groups["Bald"].values_VA.tolist() == [[False]]
    child = smiling if smiling.parent else male
    parent = male if smiling.parent else smiling
    together = (table[:, parent.columns] & table[:, child.columns]).sum()
    s, v = (int(np.flatnonzero(g.values_VA[:, 0])[0]) for g in (parent, child))
    assert child.counts_SV[s, v] == together
    np.testing.assert_array_equal(population.marginals_40, table.mean(axis=0))
    np.testing.assert_allclose(child.chances_SV.sum(axis=1), 1)


def test_rare_combinations_move_to_the_nearest():
    table = np.zeros((1000, 40), dtype=bool)
    table[:300, INDEX["Black_Hair"]] = True
    table[300:600, INDEX["Blond_Hair"]] = True
    table[: MIN_COUNT - 1, INDEX["Blond_Hair"]] = True  # two hair colours: too rare to be counted
    hair = next(group for group in Population.learn(table).groups if group.name == "hair")
    black, blond = (hair.attributes.index(name) for name in ("Black_Hair", "Blond_Hair"))
    assert not (hair.values_VA[:, black] & hair.values_VA[:, blond]).any()
    assert hair.counts_SV.sum() == 1000


def test_nearest_prefers_the_heavier_and_never_the_weightless():
    values = np.array([[0, 0], [0, 1], [1, 1]], dtype=bool)
    wanted = np.array([[1, 0], [1, 1]], dtype=bool)
    assert nearest(wanted, values, np.array([1, 5, 9])).tolist() == [2, 2]
    assert nearest(wanted, values, np.array([9, 5, 9])).tolist() == [0, 2]
    assert nearest(wanted, values, np.array([1, 5, 0])).tolist() == [0, 1]


def test_saved_and_loaded_is_the_same(tmp_path: Path):
    population = Population.learn(_table(), name="mine").rounded()
    population.save(tmp_path / "p.json")
    again = Population.load(tmp_path / "p.json")
    assert (again.name, again.n) == ("mine", 2000)
    np.testing.assert_array_equal(again.marginals_40, population.marginals_40)
    for one, other in zip(population.groups, again.groups, strict=True):
        assert (one.name, one.attributes, one.parent) == (other.name, other.attributes, other.parent)
        np.testing.assert_array_equal(one.values_VA, other.values_VA)
        np.testing.assert_array_equal(one.counts_SV, other.counts_SV)


def _rare(rows: int = 1003) -> np.ndarray:
    """Attributes in groups and trees, with values that few rows have."""
    rng = np.random.default_rng(5)
    table = rng.random((rows, 40)) < rng.random(40) * 0.3
    table[:7, INDEX["Goatee"]] = True
    table[:, INDEX["Male"]] |= table[:, INDEX["Goatee"]]
    return table


def test_files_hold_no_count_that_few_people_are_behind(tmp_path: Path):
    for rows in (100, 333, 1003):
        population = Population.learn(_rare(rows))
        population.save(tmp_path / "p.json")
        tree = json.loads((tmp_path / "p.json").read_text())
        counts = np.concatenate([np.ravel(group["counts"]) for group in tree["groups"]])
        assert set((counts % 5).tolist()) == {0}
        assert not {count % 5 for count in (*tree["marginals"].values(), tree["n"])} - {0}
        assert tree["note"].startswith("Not differentially private")
        again = Population.load(tmp_path / "p.json")
        assert abs(again.marginals_40 - population.marginals_40).max() <= 5 / rows
        again.save(tmp_path / "q.json")
        assert (tmp_path / "q.json").read_text() == (tmp_path / "p.json").read_text()


def test_celebas_is_shipped_small_and_whole():
    population = celeba_population()
    assert (population.name, population.n) == ("CelebA", 202_599)
    assert population.marginals_40[INDEX["Bald"]] == pytest.approx(4547 / 202_599)  # Liu et al.'s own list
    assert population.marginals_40[INDEX["Male"]] == pytest.approx(84_434 / 202_599)
    names = {group.name: group for group in population.groups}
    assert names["beard"].parent == "sex"
    counted = np.concatenate([group.counts_SV.ravel() for group in population.groups])
    assert counted[counted > 0].min() >= MIN_COUNT
    for group in population.groups:  # what was moved because it was rare hardly shows
        share = group.counts_SV.sum(axis=0) @ group.values_VA / population.n
        np.testing.assert_allclose(share, population.marginals_40[group.columns], atol=7e-4)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": ["Beard"]}, "unknown attributes Beard"),
        ({"a": ["Male"], "b": ["Male", "Young"]}, "Male named more than once"),
        ({"a": []}, "expected 1 to 12 attributes, got 0"),
        ({"a": ATTRIBUTES[:13]}, "got 13; split it"),
        ({"Bald": ["Male"]}, "Bald is an attribute outside"),
    ],
)
def test_groups_that_cannot_be(groups, message):
    with pytest.raises(ConfigError, match=message):
        Population.learn(_table(), groups)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((200, 39), dtype=bool), r"\(N, 40\), got bool of shape \(200, 39\)"),
        (np.ones((200, 40), dtype=np.int64), "got int64"),
        (np.zeros((99, 40), dtype=bool), "at least 100 rows, got 99"),
    ],
)
def test_tables_that_cannot_be(table, message):
    with pytest.raises(DataError, match=message):
        Population.learn(table)


def _drop_group(tree):
    tree["groups"].pop()


def _break_sum(tree):
    tree["groups"][1]["counts"][0][0] += 1


def _repeat_value(tree):
    tree["groups"][0]["values"][1] = tree["groups"][0]["values"][0]


def _turn_round(tree):
    tree["groups"].reverse()


def _half(tree):
    tree["groups"][0]["counts"][0][0] += 0.5


def _no_counts(tree):
    del tree["groups"][0]["counts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(version=2), "expected version 1, got 2; upgrade"),
        (lambda tree: tree.update(format="x"), "expected format"),
        (lambda tree: tree["marginals"].pop("Bald"), "KeyError 'Bald'"),
        (lambda tree: tree["marginals"].update(Bald=-1), "from 0 to 1"),
        (_drop_group, "each of the 40 attributes once"),
        (_break_sum, "do not add up"),
        (_repeat_value, "a value stands twice"),
        (_turn_round, "does not stand before it"),
        (_half, "whole numbers"),
        (_no_counts, "KeyError 'counts'"),
    ],
)
def test_files_that_contradict_themselves(tmp_path: Path, change, message):
    path = tmp_path / "p.json"
    Population.learn(_table()).save(path)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=message):
        Population.load(path)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(DataError, match="check the path"):
        Population.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"format": "anonymous')
    with pytest.raises(DataError, match="not JSON"):
        Population.load(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="expected format"):
        Population.load(tmp_path / "list.json")
