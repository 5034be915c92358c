"""The population S: how often the 40 attributes, and which of them together, occur in the whole data set.

    population = Population.learn(table_N40, name="my staff photos")
    population.save(path); Population.load(path); celeba_population()

Attributes that exclude or imply each other form a group whose values are counted, and later drawn, jointly:
two hair colours at once are then as rare as they are in the data. The groups hang in the tree (or trees) that
carries the most information about their joint distribution (Chow & Liu, *Approximating discrete probability
distributions with dependence trees*, 1968), so a goatee is drawn knowing whether there is make-up. Only
counts are kept, none of them made of fewer than `MIN_COUNT` rows: rarer combinations are first moved to the
nearest combination that has as many. In files they are rounded as well, so that no single row shows; that is no
differential privacy, and the file says so.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import DataError
from anonymousnet.privacy.groups import GROUPS, MIN_COUNT, Group, complete, learn_groups

VERSION = 1
"""Version of the population file; a newer one is refused."""
ROUNDED = MIN_COUNT
"""Counts in files are multiples of it."""
NOTE = (
    f"Not differentially private: exact counts, rounded to multiples of {ROUNDED}, none of fewer than {ROUNDED} "
    "people. Who knows all the others, or sees two such files of nearly the same people, may learn about one of them."
)
"""Said by every population file."""


@dataclass(frozen=True, eq=False)
class Population:
    """Marginals and trees of conditionals of the 40 attributes. Raises DataError where they contradict."""

    name: str
    n: int
    """Rows it was learned from."""
    marginals_40: NDArray[np.float64]
    """Share of rows that have each attribute, 0 to 1, in the order of ATTRIBUTES."""
    groups: tuple[Group, ...]
    """Every parent stands before its children."""

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def learn(
        cls,
        table_N40: NDArray[np.bool_],
        groups: Mapping[str, Sequence[str]] | None = None,
        name: str = "own",
    ) -> Population:
        """Count a bool table of N >= 100 rows; `groups` (name -> attributes) replaces the default GROUPS.

        Raises DataError for a table of another shape or type, ConfigError for groups that overlap or name an
        unknown attribute.
        """
        if table_N40.ndim != 2 or table_N40.shape[1] != len(ATTRIBUTES) or table_N40.dtype != np.bool_:
            raise DataError(
                f"population table: expected bool of shape (N, {len(ATTRIBUTES)}), got {table_N40.dtype} of "
                f"shape {table_N40.shape}; CelebA's -1 and 1 become bool by `table > 0`"
            )
        if len(table_N40) < 100:
            raise DataError(f"population table: expected at least 100 rows, got {len(table_N40)}; use CelebA's")
        learned = learn_groups(table_N40, complete(GROUPS if groups is None else groups))
        return cls(name, len(table_N40), table_N40.mean(axis=0), learned)

    def joint(self, names: Sequence[str]) -> NDArray[np.float64]:
        """P of each of the 2^k combinations of k attributes; the first name is the lowest bit of the index.

        Summed over the trees, from the leaves up: of every group what is passed on is the chance, given the
        parent's value, of each combination of the named attributes in it and below it.
        """
        size = 2 ** len(names)
        below: dict[str | None, NDArray[np.float64]] = {}
        for group in reversed(self.groups):
            bits = [(group.attributes.index(n), i) for i, n in enumerate(names) if n in group.attributes]
            code_V = sum((group.values_VA[:, a].astype(np.int64) << i for a, i in bits), np.zeros(1, np.int64))
            own_VX = np.zeros((len(group.values_VA), size))
            own_VX[np.arange(len(own_VX)), code_V] = 1
            passed_SX = group.chances_SV @ _together(own_VX, below.pop(group.name, None))
            below[group.parent] = _together(passed_SX, below.get(group.parent))
        return np.asarray(below[None][0])

    def rounded(self) -> Population:
        """The same with every count a multiple of ROUNDED.

        From the roots down: each value's rows are shared out again among the values that stood beside it, by largest
        remainders, so that the counts still add up. A value of which nothing is left is dropped.
        """
        groups: list[Group] = []
        totals: dict[str | None, NDArray[np.int64]] = {None: np.array([max(self.n // ROUNDED, 1)])}
        left: dict[str | None, NDArray[np.bool_]] = {None: np.ones(1, np.bool_)}
        for group in self.groups:
            counts_SV = group.counts_SV[left[group.parent]]
            shared_SV = np.stack([_shared(*one) for one in zip(counts_SV, totals[group.parent], strict=True)])
            left[group.name] = np.asarray(shared_SV.any(axis=0))
            values_VA, shared_SV = group.values_VA[left[group.name]], shared_SV[:, left[group.name]]
            totals[group.name] = shared_SV.sum(axis=0)
            groups.append(Group(group.name, group.attributes, group.parent, values_VA, ROUNDED * shared_SV))
        units = int(totals[None][0])
        return Population(self.name, ROUNDED * units, np.rint(self.marginals_40 * units) / units, tuple(groups))

    def save(self, path: Path) -> None:
        """Write the rounded counts as JSON, with what they are not."""
        resolve_path(path).write_text(json.dumps({"note": NOTE, **json.loads(self.rounded().text())}) + "\n")

    def text(self) -> str:
        """The counts as JSON, the same for the same population."""
        groups = [
            {
                "name": group.name,
                "attributes": group.attributes,
                "parent": group.parent,
                "values": ["".join("01"[int(bit)] for bit in value) for value in group.values_VA],
                "counts": group.counts_SV.tolist(),
            }
            for group in self.groups
        ]
        marginals = dict(zip(ATTRIBUTES, np.rint(self.marginals_40 * self.n).astype(int).tolist(), strict=True))
        tree = {"format": "anonymousnet population", "version": VERSION, "name": self.name, "n": self.n}
        return json.dumps({**tree, "marginals": marginals, "groups": groups}) + "\n"

    @classmethod
    def load(cls, path: Path) -> Population:
        """Read a file written by `save`. Raises DataError saying what is wrong with it."""
        remedy = "write it anew with `anonymousnet population`"
        try:
            tree = json.loads(resolve_path(path).read_text())
        except OSError as error:
            raise DataError(f"population file {path}: cannot be read ({error.strerror}); check the path") from error
        except ValueError as error:
            raise DataError(f"population file {path}: not JSON ({error}); {remedy}") from error
        if not isinstance(tree, dict) or tree.get("format") != "anonymousnet population":
            raise DataError(f"population file {path}: expected format 'anonymousnet population'; {remedy}")
        if tree.get("version") != VERSION:
            raise DataError(
                f"population file {path}: expected version {VERSION}, got {tree.get('version')}; upgrade "
                f"anonymousnet if the file is newer, otherwise {remedy}"
            )
        try:
            return _parse(tree)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"population file {path}: {type(error).__name__} {error}; {remedy}") from error
        except DataError as error:
            raise DataError(f"population file {path}: {error}; {remedy}") from error


@functools.cache
def celeba_population() -> Population:
    """CelebA's, counted over all 202,599 rows (Liu et al. 2015, list_attr_celeba.txt)."""
    with resources.as_file(resources.files("anonymousnet.privacy") / "celeba_population.json") as path:
        return Population.load(path)


def _together(one_SX: NDArray[np.float64], other_SX: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Chances of combinations made of two independent parts that set different bits."""
    if other_SX is None:
        return one_SX
    joint_SX = np.zeros_like(one_SX)
    for code in np.flatnonzero(one_SX.any(axis=0)):
        apart = np.flatnonzero(other_SX.any(axis=0))
        joint_SX[:, code | apart] += one_SX[:, [code]] * other_SX[:, apart]
    return joint_SX


def _shared(counts_V: NDArray[np.int64], units: np.int64) -> NDArray[np.int64]:
    """So many units shared out in proportion to counts, at least one for each count above 0, as far as they go."""
    order = np.argsort(-counts_V, kind="stable")
    kept = order[: min(int((counts_V > 0).sum()), int(units))]
    exact = counts_V[kept] * int(units) / counts_V[kept].sum()
    shared = np.maximum(np.floor(exact).astype(np.int64), 1)
    while (off := int(units - shared.sum())) != 0:
        behind = np.where(shared + np.sign(off) >= 1, np.sign(off) * (exact - shared), -np.inf)
        chosen = np.argsort(-behind, kind="stable")[: abs(off)]
        shared[chosen[np.isfinite(behind[chosen])]] += np.sign(off)
    out = np.zeros_like(counts_V)
    out[kept] = shared
    return out


def _parse(tree: dict[str, Any]) -> Population:
    groups = []
    for item in tree["groups"]:
        values = np.array([[bit == "1" for bit in value] for value in item["values"]], dtype=np.bool_)
        counts = np.array(item["counts"])
        if counts.dtype.kind != "i":
            raise DataError(f"group '{item['name']}': expected whole numbers as counts")
        groups.append(Group(item["name"], tuple(item["attributes"]), item["parent"], values, counts.astype(np.int64)))
    marginals = np.array([int(tree["marginals"][name]) for name in ATTRIBUTES]) / int(tree["n"])
    return Population(str(tree["name"]), int(tree["n"]), marginals, tuple(groups))


def _check(population: Population) -> None:
    """Raise DataError unless the counts add up."""
    named = [name for group in population.groups for name in group.attributes]
    if sorted(named) != sorted(ATTRIBUTES):
        odd = sorted(set(named) ^ set(ATTRIBUTES)) or sorted({name for name in named if named.count(name) > 1})
        raise DataError(f"groups: expected each of the 40 attributes once, got a fault at {', '.join(odd[:5])}")
    if not ((population.marginals_40 >= 0) & (population.marginals_40 <= 1)).all():
        raise DataError("marginals: expected shares from 0 to 1")
    totals: dict[str, NDArray[np.int64]] = {}
    for group in population.groups:
        shape = group.counts_SV.shape
        if (
            group.values_VA.shape != (shape[-1], len(group.attributes))
            or len(np.unique(group.values_VA, axis=0)) != shape[-1]
        ):
            raise DataError(f"group '{group.name}': values and counts do not fit, or a value stands twice")
        if group.parent is not None and group.parent not in totals:
            raise DataError(f"group '{group.name}': its parent '{group.parent}' does not stand before it")
        expected = np.array([population.n]) if group.parent is None else totals[group.parent]
        totals[group.name] = group.counts_SV.sum(axis=0)
        if group.counts_SV.min() < 0 or totals[group.name].min() < 1:
            raise DataError(f"group '{group.name}': expected counts of 0 and more, and every value at least once")
        if not np.array_equal(group.counts_SV.sum(axis=1), expected):
            raise DataError(f"group '{group.name}': its counts do not add up to those of its parent, or to n")
