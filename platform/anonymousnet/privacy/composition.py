"""Groups released down their trees: total epsilon, distance, and gammas that reach a target.

Maths only; `mechanism.py` states what it proves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from anonymousnet.errors import ConfigError
from anonymousnet.privacy.kernel import GAMMA_MAX, Carried, Floats, Kernel, Setting
from anonymousnet.privacy.population import Population


def assemble(settings: Sequence[Setting], gamma: Callable[[Carried], float]) -> list[Kernel]:
    """Kernels from the roots down; where a group's truth is carried to depends on the gammas above it."""
    kernels: dict[str | None, Kernel] = {}
    for setting in settings:
        parent = setting.group.parent
        carried = Carried.over(setting, kernels[parent].joint_VV if parent else np.ones((1, 1)))
        kernels[setting.group.name] = Kernel(carried, gamma(carried))
    return list(kernels.values())


def worst(kernels: Sequence[Kernel]) -> float:
    """The largest total cost over all released vectors: best cost of each subtree, from the leaves up."""
    below: dict[str | None, Floats] = {}
    for kernel in reversed(kernels):
        group = kernel.setting.group
        cost_CV = kernel.cost_CV + below.pop(group.name, np.zeros(1))
        cost_R = cost_CV.reshape(len(group.counts_SV), -1).max(axis=1)
        below[group.parent] = below.get(group.parent, np.zeros(1)) + cost_R
    return float(below[None].sum()) if kernels else 0.0


def distance(kernels: Sequence[Kernel], population: Population) -> float:
    """Bound, over all data sets, of the expected distance of a released marginal from the population's.

    A group's release is an average over its released parent. Under the population's own parents it is off by
    so much; the parents may differ from those by at most `reach[parent]` in total variation, which shifts the
    average by at most that times its spread over the parents; nor can it leave the range of what it averages.
    """
    reach: dict[str | None, float] = {None: 0.0}
    largest = 0.0
    for kernel in kernels:
        group, chance_VRV = kernel.setting.group, kernel.chance_VRV
        parent_R = group.counts_SV.sum(axis=1) / population.n
        expected_VRA = chance_VRV @ group.values_VA
        off_VA = np.abs(np.einsum("r,vra->va", parent_R, expected_VRA) - population.marginals_40[group.columns])
        bound_A = off_VA.max(axis=0) + reach[group.parent] * np.ptp(expected_VRA, axis=1).max(axis=0)
        furthest_A = np.abs(expected_VRA - population.marginals_40[group.columns]).max(axis=(0, 1))
        bound_A = np.minimum(bound_A, furthest_A)
        largest = max([largest, *bound_A[~kernel.setting.kept_A].tolist()])
        own_V = group.counts_SV.sum(axis=0) / population.n
        off = np.abs(np.einsum("r,vrw->vw", parent_R, chance_VRV) - own_V).sum(axis=1).max() / 2
        spread = min(1.0, np.ptp(chance_VRV, axis=1).sum(axis=1).max() / 2)
        reach[group.name] = min(1.0, float(off + reach[group.parent] * spread))
    return largest


def spend(settings: Sequence[Setting], names: Sequence[str], epsilon: float, split: str) -> dict[str, float]:
    """Gammas whose worst case is `epsilon`: the level all named groups share is raised until it is.

    The level is each group's own worst case (`split` equal) or its gamma (sensitivity). Raises ConfigError
    where epsilon is 0, infinite, or so large that nothing would be protected.
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(
            f"obfuscate.epsilon: expected a finite number above 0, got {epsilon:g}; inf is no protection, "
            "and for 0 (nothing may depend on the face) set epsilon: null and gamma: 0"
        )

    def at(level: float) -> list[Kernel]:
        def gamma(carried: Carried) -> float:
            if carried.setting.group.name not in names:
                return 0.0
            return level if split == "sensitivity" else carried.gamma(level)

        return assemble(settings, gamma)

    low, high = 0.0, GAMMA_MAX if split == "sensitivity" else epsilon
    if (most := worst(at(high))) < epsilon * (1 - 1e-9):
        raise ConfigError(
            f"obfuscate.epsilon: {epsilon:g} is no protection, it would keep everything; expected less than "
            f"{most:.0f} with this population and these attributes to protect"
        )
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if worst(at(middle)) > epsilon else (middle, high)
    return {kernel.setting.group.name: kernel.gamma for kernel in at(low)}


def cap(settings: Sequence[Setting], gammas: dict[str, float], t: float, population: Population) -> dict[str, float]:
    """The gammas, all lowered by the same factor until the expected distance is at most t.

    Raises ConfigError where even gamma 0 leaves the release further off: kept and followed attributes move others.
    """

    def scaled(factor: float) -> dict[str, float]:
        return {name: factor * gamma for name, gamma in gammas.items()}

    def reached(factor: float) -> float:
        chosen = scaled(factor)
        return distance(assemble(settings, lambda c: chosen.get(c.setting.group.name, 0.0)), population)

    if reached(1.0) <= t:
        return gammas
    if (least := reached(0.0)) > t:
        raise ConfigError(
            f"obfuscate.t: {t:g} cannot be held; even with gamma 0, releases may be {least:.3g} from the population, "
            "for attributes that are kept or follow the surroundings move others: set fewer in obfuscate.keep and "
            "obfuscate.follow, or allow a larger t"
        )
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) > t else (middle, high)
    return scaled(low)
