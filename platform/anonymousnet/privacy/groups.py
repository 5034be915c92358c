"""Groups of attributes that are drawn together, and the tree of conditionals between them.

Maths of the population file: which combinations occur, in which tree the groups hang (Chow & Liu,
*Approximating discrete probability distributions with dependence trees*, 1968), and how often each value
occurs beside each value of the parent. `population.py` keeps the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.errors import ConfigError

MIN_COUNT = 5
"""Fewest rows behind any count: a population file says nothing about fewer people together."""
MAX_GROUP = 12
"""Most attributes in one group: their combinations are tabulated."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "sex": ("Male", "Heavy_Makeup", "Wearing_Lipstick"),
    "beard": ("5_o_Clock_Shadow", "Goatee", "Mustache", "No_Beard", "Sideburns"),
    "hair": ("Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline",
             "Straight_Hair", "Wavy_Hair", "Wearing_Hat"),
    "smile": ("High_Cheekbones", "Mouth_Slightly_Open", "Smiling"),
    "age": ("Attractive", "Young"),
    "chin": ("Chubby", "Double_Chin"),
    "jewellery": ("Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie"),
    "brows": ("Arched_Eyebrows", "Bushy_Eyebrows"),
    "nose": ("Big_Nose", "Pointy_Nose"),
    "skin": ("Pale_Skin", "Rosy_Cheeks"),
}  # fmt: skip
"""Default groups; every attribute not named here is a group of its own. Chosen on CelebA: attributes that are
far more or far less often together than by chance, and pairs of one trait."""


@dataclass(frozen=True, eq=False)
class Group:
    """Attributes drawn together, and how often each combination occurs beside each of the parent group's."""

    name: str
    attributes: tuple[str, ...]
    parent: str | None
    """The group whose released value this one is drawn upon; None for a root."""
    values_VA: NDArray[np.bool_]
    """The V combinations of the A attributes that occur."""
    counts_SV: NDArray[np.int64]
    """How many rows have the parent's value s (S = 1 for a root) and this group's value v."""

    @property
    def columns(self) -> list[int]:
        """Where the attributes stand among the 40."""
        return [INDEX[name] for name in self.attributes]

    @property
    def chances_SV(self) -> NDArray[np.float64]:
        """P(v | s), each row adding to 1."""
        return np.asarray(self.counts_SV / self.counts_SV.sum(axis=1, keepdims=True))


def nearest(wanted_WA: NDArray[np.bool_], values_VA: NDArray[np.bool_], weights_V: NDArray[Any]) -> NDArray[np.intp]:
    """For each wanted combination the index of the value that differs in the fewest attributes.

    Values of weight 0 are never chosen; among equally near ones the heavier wins, then the first.
    """
    differing = (wanted_WA[:, None, :] != values_VA[None, :, :]).sum(axis=2)
    order = np.argsort(-weights_V, kind="stable")
    order = order[weights_V[order] > 0]
    return np.asarray(order[differing[:, order].argmin(axis=1)])


def complete(groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The groups and, for every attribute in none of them, a group of its own."""
    named = list(itertools.chain.from_iterable(groups.values()))
    unknown = sorted(set(named) - set(ATTRIBUTES))
    if unknown:
        raise ConfigError(f"groups: unknown attributes {', '.join(unknown)}; expected CelebA's 40 names")
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise ConfigError(f"groups: {', '.join(twice)} named more than once; every attribute belongs to one group")
    for name, attributes in groups.items():
        if not 1 <= len(attributes) <= MAX_GROUP:
            raise ConfigError(f"group '{name}': expected 1 to {MAX_GROUP} attributes, got {len(attributes)}; split it")
    alone = [name for name in ATTRIBUTES if name not in named]
    if set(alone) & set(groups):
        raise ConfigError(
            f"groups: {', '.join(set(alone) & set(groups))} is an attribute outside the group of that name"
        )
    return {
        **{name: tuple(attributes) for name, attributes in groups.items()},
        **{name: (name,) for name in alone},
    }


def learn_groups(table_N40: NDArray[np.bool_], attributes: Mapping[str, tuple[str, ...]]) -> tuple[Group, ...]:
    """Count every group given its parent, from the roots down, moving rows out of too rare combinations."""
    values: dict[str, NDArray[np.bool_]] = {}
    rows: dict[str, NDArray[np.intp]] = {}
    for name, members in attributes.items():
        values[name], rows[name] = _frequent(table_N40[:, [INDEX[member] for member in members]])
    groups = []
    for name, parent in _tree({name: rows[name] for name in attributes}):
        given = rows[parent] if parent is not None else np.zeros(len(table_N40), dtype=np.intp)
        moved = rows[name].copy()
        for s, counts in enumerate(_count(given, rows[name])):
            enough = np.where(counts >= MIN_COUNT, counts, 0)
            enough[counts.argmax()] = counts.max()  # a context too rare for that keeps its commonest value
            here = given == s
            moved[here] = nearest(values[name], values[name], enough)[rows[name][here]]
        used, rows[name] = np.unique(moved, return_inverse=True)
        values[name] = values[name][used]
        groups.append(Group(name, attributes[name], parent, values[name], _count(given, rows[name])))
    return tuple(groups)


def _frequent(bits_NA: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Combinations with enough rows, and for each row the index of the nearest of them."""
    codes = bits_NA @ (1 << np.arange(bits_NA.shape[1]))
    _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    common = counts >= MIN_COUNT
    common[counts.argmax()] = True
    found_CA = bits_NA[first]
    values_VA = found_CA[common]
    return values_VA, nearest(found_CA, values_VA, counts[common])[inverse]


def _count(given: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Contingency table of two index columns."""
    s, v = int(given.max()) + 1, int(rows.max()) + 1
    return np.bincount(given * v + rows, minlength=s * v).reshape(s, v).astype(np.int64)


def _tree(rows: Mapping[str, NDArray[np.intp]]) -> list[tuple[str, str | None]]:
    """(group, parent) from the roots down: the maximum spanning forest of mutual information (Prim).

    From each estimate the value expected of independent groups, (V-1)(W-1)/2n, is taken off; where nothing is
    left, a group becomes a root of its own.
    """
    gain = {name: dict.fromkeys(rows, 0.0) for name in rows}
    for one, other in itertools.combinations(rows, 2):
        gain[one][other] = gain[other][one] = _information(_count(rows[one], rows[other]))
    waiting = sorted(rows, key=lambda name: (-sum(gain[name].values()), name))
    order: list[tuple[str, str | None]] = []
    while waiting:
        joined = [name for name, _ in order]
        edges = [(gain[old][new], old, new) for old in joined for new in waiting]
        best = max(edges, key=lambda edge: edge[0], default=(0.0, "", ""))
        name, parent = (best[2], best[1]) if best[0] > 0 else (waiting[0], None)
        order.append((name, parent))
        waiting.remove(name)
    return order


def _information(counts_SV: NDArray[np.int64]) -> float:
    """Mutual information in nats, corrected for chance."""
    n = counts_SV.sum()
    apart = counts_SV.sum(axis=1, keepdims=True) * counts_SV.sum(axis=0, keepdims=True) / n
    seen = counts_SV > 0
    chance = (counts_SV.shape[0] - 1) * (counts_SV.shape[1] - 1) / (2 * n)
    return float((counts_SV[seen] / n * np.log(counts_SV[seen] / apart[seen])).sum() - chance)
