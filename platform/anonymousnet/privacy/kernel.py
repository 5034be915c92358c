"""One group's release: the chance of every value, given the true one and what is already released.

Letters in shapes: V values of the group, R released values of its parent, C contexts (parent's value, kept
attributes of this group), K cells, J cells that the truth may lie in (the same cells), A attributes of the
group.

*Cells.* In each context the values are merged, rarest first and with the nearest in Hamming distance, until
every cell holds at least `FLOOR` of the population there. What is kept of the truth is its cell; the value
within the cell is drawn from the population. So no value rarer than FLOOR drives epsilon or singles anybody
out, and combinations that the population does not have are in some cell too, at no cost.

*Carrying over.* Where the parent was redrawn, the truth may not suit what was released (a goatee beside
released lipstick). Let P be the population's chances of the cells in context c and Q those of the truth
there, when whole populations are released: Q is a mixture over the true contexts that may lie behind c. A
maximal coupling of Q and P carries the truth over: cell j stays with chance min(1, P_j / Q_j), otherwise it
moves to where P exceeds Q. So a release of the population has exactly the population's joint distribution of
group and parent, and as much of the truth as that allows. For a root, and wherever the parent was kept, Q = P
and nothing moves.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anonymousnet.privacy.groups import Group, nearest

Floats = NDArray[np.float64]

FLOOR = 0.02
"""Least share of the population, in a context, behind anything that is kept of the truth."""
GAMMA_MAX = 0.999999
"""A chance of keeping the truth above this is refused as no protection."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A group, which of its attributes are kept as they are, and its cells: what does not depend on gamma."""

    group: Group
    kept_A: NDArray[np.bool_]
    """Attributes released exactly."""
    pattern_V: NDArray[np.intp]
    """Which combination of the kept attributes each value has."""
    value_of: NDArray[np.intp]
    """For each of the 2^A combinations of bits the value it is taken for: the nearest of its pattern."""
    chances_CV: Floats
    """P(value | context); context = parent's value * patterns + pattern."""
    cell_CV: NDArray[np.intp]
    """The cell each value lies in."""

    @classmethod
    def of(cls, group: Group, keep: frozenset[str]) -> Setting:
        """Tabulate a group of which the attributes in `keep` are released exactly."""
        kept_A = np.array([name in keep for name in group.attributes])
        weights_V = group.counts_SV.sum(axis=0)
        kept_values, first, pattern_V = np.unique(
            group.values_VA[:, kept_A], axis=0, return_index=True, return_inverse=True
        )
        pattern_V = pattern_V.reshape(-1)
        weights_P = np.bincount(pattern_V, weights_V)
        bits = np.array(np.arange(2 ** len(kept_A))[:, None] >> np.arange(len(kept_A)) & 1, dtype=np.bool_)
        # The pattern is chosen by the kept attributes alone, so that it tells nothing about the others.
        pattern = nearest(bits[:, kept_A], kept_values, weights_P)
        value_of = np.empty(len(bits), dtype=np.intp)
        for p in range(len(first)):
            here = pattern == p
            value_of[here] = nearest(bits[here], group.values_VA, np.where(pattern_V == p, weights_V, 0))
        chances_CV = _given_pattern(group, pattern_V)
        cell_CV = np.stack([_cells(row, group.values_VA) for row in chances_CV])
        return cls(group, kept_A, pattern_V, value_of, chances_CV, cell_CV)

    @property
    def patterns(self) -> int:
        """How many combinations of the kept attributes there are; 1 if none is kept."""
        return int(self.pattern_V.max()) + 1

    @functools.cached_property
    def members_CKV(self) -> NDArray[np.bool_]:
        """Which values lie in which cell."""
        return np.asarray(self.cell_CV[:, None, :] == np.arange(self.cell_CV.max() + 1)[None, :, None])

    @functools.cached_property
    def cells_CK(self) -> Floats:
        """P(cell | context)."""
        return np.asarray((self.members_CKV * self.chances_CV[:, None, :]).sum(axis=2))

    @property
    def informative(self) -> bool:
        """Whether there is anything to keep: a context with more than one cell."""
        return bool((self.cell_CV.max(axis=1) > 0).any())

    def values(self, table_B40: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The value that each row is taken for."""
        return self.value_of[table_B40[:, self.group.columns] @ (1 << np.arange(len(self.kept_A)))]

    def contexts(self, parents_B: NDArray[np.intp], values_B: NDArray[np.intp]) -> NDArray[np.intp]:
        """The context of rows whose parent was released as `parents_B` and whose true value is `values_B`."""
        return np.asarray(parents_B * self.patterns + self.pattern_V[values_B])


@dataclass(frozen=True, eq=False)
class Carried:
    """The setting and where the truth is carried to, knowing how the groups above are released."""

    setting: Setting
    believed_RV: Floats
    """P(parent released as r and truth v) when the population itself is released."""
    land_CJK: Floats
    """P(carried to cell k | truth in cell j)."""
    most_CK: Floats
    least_CK: Floats
    """Largest and least of that over the cells j that exist in the context."""

    @classmethod
    def over(cls, setting: Setting, joint_RR: Floats) -> Carried:
        """`joint_RR[true, released]` is the parent's joint distribution under a release of the population."""
        believed_RV = joint_RR.T @ setting.group.chances_SV
        same = setting.pattern_V[None, :] == np.arange(setting.patterns)[:, None]
        believed_CV = (believed_RV[:, None, :] * same[None]).reshape(setting.chances_CV.shape)
        total_C = believed_CV.sum(axis=1, keepdims=True)
        believed_CV = np.where(total_C > 0, believed_CV / np.where(total_C > 0, total_C, 1), setting.chances_CV)
        p_CK, q_CK = setting.cells_CK, (setting.members_CKV * believed_CV[:, None, :]).sum(axis=2)
        stays_CK = np.minimum(1.0, p_CK / np.where(q_CK > 0, q_CK, 1.0))
        stays_CK[q_CK <= 0] = 1.0
        excess_CK = np.maximum(p_CK - q_CK, 0.0)
        excess_C = excess_CK.sum(axis=1, keepdims=True)
        goes_CK = np.where(excess_C > 1e-12, excess_CK / np.maximum(excess_C, 1e-12), p_CK)
        land_CJK = stays_CK[:, :, None] * np.eye(p_CK.shape[1]) + (1 - stays_CK)[:, :, None] * goes_CK[:, None, :]
        real_CJ1 = setting.members_CKV.any(axis=2, keepdims=True)
        most_CK = np.where(real_CJ1, land_CJK, 0.0).max(axis=1)
        least_CK = np.where(real_CJ1, land_CJK, 1.0).min(axis=1)
        return cls(setting, believed_RV, land_CJK, most_CK, least_CK)

    def gamma(self, epsilon: float) -> float:
        """The largest gamma whose worst log-likelihood ratio in this group is at most `epsilon`.

        In context c and cell k that ratio is (gamma most + (1-gamma) P) / (gamma least + (1-gamma) P), so the
        odds gamma/(1-gamma) are P (e^epsilon - 1) / (most - e^epsilon least) where that is the binding cell.
        """
        grown = math.exp(min(epsilon, 100.0))  # e^100 is beyond GAMMA_MAX for any cell
        room_CK = self.most_CK - grown * self.least_CK
        binding = (room_CK > 0) & (self.setting.cells_CK > 0)
        if not binding.any():
            return GAMMA_MAX if self.setting.informative else 0.0
        odds = float((self.setting.cells_CK[binding] * (grown - 1) / room_CK[binding]).min())
        return min(odds / (1 + odds), GAMMA_MAX)


@dataclass(frozen=True, eq=False)
class Kernel:
    """What Stage II does to one group."""

    carried: Carried
    gamma: float
    """Chance of carrying the true cell into the release; otherwise the value is drawn from the population."""

    @property
    def setting(self) -> Setting:
        """The group, its cells and contexts."""
        return self.carried.setting

    @functools.cached_property
    def chance_CJV(self) -> Floats:
        """P(released value v | context c, truth in cell j); rows add to 1."""
        setting, g = self.setting, self.gamma
        cells_CJK = (1 - g) * setting.cells_CK[:, None, :] + g * self.carried.land_CJK
        # Every value lies in one cell and has a fixed share of its chance.
        within_CV = setting.chances_CV / np.take_along_axis(setting.cells_CK, setting.cell_CV, axis=1)
        return np.asarray(np.take_along_axis(cells_CJK, setting.cell_CV[:, None, :], axis=2) * within_CV[:, None, :])

    @functools.cached_property
    def cost_CV(self) -> Floats:
        """Log of the largest over the least chance of a released value, over all truths; -inf: impossible."""
        p_CK, g = self.setting.cells_CK, self.gamma
        with np.errstate(divide="ignore", invalid="ignore"):
            most, least = (
                (1 - g) * p_CK + g * self.carried.most_CK,
                (1 - g) * p_CK + g * self.carried.least_CK,
            )
            cost_CK = np.where(p_CK > 0, np.log(most) - np.log(least), -np.inf)
        cost_CV = np.take_along_axis(cost_CK, self.setting.cell_CV, axis=1)
        return np.where(self.setting.chances_CV > 0, cost_CV, -np.inf)

    @functools.cached_property
    def chance_VRV(self) -> Floats:
        """P(released value | true value, released parent)."""
        true_V = np.arange(len(self.setting.pattern_V))
        contexts = self.setting.contexts(np.arange(len(self.carried.believed_RV))[None, :], true_V[:, None])
        return np.asarray(self.chance_CJV[contexts, self.setting.cell_CV[contexts, true_V[:, None]]])

    @property
    def joint_VV(self) -> Floats:
        """P(true value, released value) when the population itself is released."""
        return np.asarray(np.einsum("rv,vrw->vw", self.carried.believed_RV, self.chance_VRV))


def _given_pattern(group: Group, pattern_V: NDArray[np.intp]) -> Floats:
    """P(v | parent's value, kept attributes), or P(v | kept attributes) where the two never go together."""
    rows = []
    for counts_V in group.counts_SV:
        for pattern in range(int(pattern_V.max()) + 1):
            here = np.where(pattern_V == pattern, counts_V, 0)
            if not here.any():
                here = np.where(pattern_V == pattern, group.counts_SV.sum(axis=0), 0)
            rows.append(here / here.sum())
    return np.stack(rows)


def _cells(chances_V: Floats, values_VA: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Merge values into cells of at least FLOOR (or one cell), the lightest cell always into the nearest.

    A cell is stood for by its commonest value; values of chance 0 join the nearest cell.
    """
    stand_for = nearest(values_VA, values_VA, chances_V)
    while True:
        seeds = np.unique(stand_for)
        masses = np.array([chances_V[stand_for == seed].sum() for seed in seeds])
        if len(seeds) == 1 or masses.min() >= FLOOR:
            return np.unique(stand_for, return_inverse=True)[1].reshape(-1)
        lightest = seeds[masses.argmin()]
        others = np.delete(np.arange(len(seeds)), masses.argmin())
        other = seeds[others][nearest(values_VA[[lightest]], values_VA[seeds[others]], masses[others])[0]]
        commoner = lightest if chances_V[lightest] > chances_V[other] else other
        stand_for[(stand_for == lightest) | (stand_for == other)] = commoner
