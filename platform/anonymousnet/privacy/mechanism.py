"""Stage II's mechanism: what is released instead of the 40 attributes, and exactly what that may give away.

The groups of the population are released one after the other, every parent before its children. With chance
gamma the cell that a group's true value lies in is carried into the release (`kernel.py`: cells, carrying
over), otherwise the value is drawn from the population; both given the parent's value *as released*. Kept
attributes are released as they are, and what shares their group is drawn given them. Followed attributes are kept too,
but at what the surroundings of the face show (`seen`), not the face.

**Theorem (labels).** Let x and x' be true attribute vectors that agree on the kept attributes, in surroundings that
show the same. For every vector y, P[M(x) = y] <= e^epsilon P[M(x') = y], and `Mechanism.epsilon` is the smallest
number for which this holds.

*Neighbouring relation.* Any two faces whatever (replace one by another; what is called local differential
privacy), per face; where attributes are kept, any two faces that agree on them. A kept attribute has no
protection at all, and lets others be guessed as far as the population connects them, as any published
statistic would.

*Proof.* Given what is already released, group g's value y_g depends on the truth only through the cell of
x_g, so P[M(x) = y] is a product over the groups of W_g(y_g | x_g, y_parent(g)), and ln of the ratio is a sum
of ln W_g(y_g | x_g, ...) - ln W_g(y_g | x'_g, ...) <= c_g(y_g, y_parent(g)), where c_g is ln of the largest
over the least chance of y_g. Every chance is at least (1-gamma) P(y_g | ...) > 0 for whatever can be
released, so c_g is finite. epsilon is the largest sum of c_g over all y, found by dynamic programming on the
tree. The groups share no attribute, so one x takes the largest and one x' the least chance in all of them at
once: the bound is attained. For a root it is c = ln(1 + gamma / ((1-gamma) p)) with p the share of its rarest
cell. QED.

**Theorem (pixels of the face region).** Let two photos agree outside the painted region and in the alignment,
and let Stage III run at strength 1. Then every released picture is at most e^epsilon times likelier under one
than under the other. *Proof.* The picture is a function of: what lies outside the region, the alignment, the
networks, the identity code, and y. All but y are the same for both photos, and y = M(x) with x = Stage I's
reading of the photo and of its surroundings, which are the same; apply the theorem above to x and x', and note that
a function of y tells no more than y (post-processing; Stage IV and file encoding included). QED.

**Theorem (photos of several faces).** Let two photos of n faces agree outside the n painted regions and in the
alignment of all n faces. Then every release of the whole photo is at most e^(n epsilon) times likelier under one than
under the other, and n epsilon is the smallest number for which this holds of the n released vectors together.
*Neighbouring relation.* Every hidden pixel of every face may change at once: whoever is shown twice in a photo, or
stands beside a relative, is covered with all of it. Photos that differ in k of their n faces alone: k epsilon.
*Proof.* All n regions are blanked before any face's surroundings are read, so face i's reading x_i is a function of
face i's own hidden pixels and of what both photos share. Each face draws with a key of its own, so its uniforms are
independent of the others' (condition 6), and P[M(x_1) = y_1, ..., M(x_n) = y_n] is the product of n chances. The
theorem on labels bounds each factor's ratio by e^epsilon, and attains it: x_1 = ... = x_n and x'_1 = ... = x'_n at the
worst pair and y attain all n at once. The picture is a function of what both photos share and of y_1 ... y_n
(post-processing). Where two regions overlap, a hidden pixel is read for both faces: it then changes two readings, which
the sum over all n faces counts. QED. (Basic composition: Dwork & Roth 2014, theorem 3.14.)

*Conditions.* (1) Neither Stage III nor what reads the surroundings sees anything of the region, which is blanked
before anything is computed from it; (2) the code comes from the key, the release and
the subject, never from hidden pixels; (3) pose, if used, is released through its own mechanism, whose epsilon
is added; (4) nothing is chosen by looking at the region again: no resampling until an embedder is satisfied,
no perturbation tuned on the source, no quarantine for likeness; (5) no attribute is kept, or the photos agree
on the kept ones; (6) the draws are uniform and independent, which `randomness.py` gives against anyone who
lacks the key and cannot break SHA-2 or SHA-3.

**Closeness.** A release of the population itself is distributed as the population: 0-close in expectation in
every group and every pair of parent and child, whatever gamma, as far as surroundings are read right. Released
marginals of other data sets move towards the population's: in a root group whose values each have a cell they are
gamma q + (1-gamma) p. `t` bounds the expected distance for every data set; `marginals` gives the exact expectation
for one.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anonymousnet.config import ObfuscateConfig
from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.errors import ConfigError
from anonymousnet.privacy.composition import assemble, cap, distance, spend, worst
from anonymousnet.privacy.kernel import GAMMA_MAX, Floats, Setting
from anonymousnet.privacy.population import Population

if TYPE_CHECKING:
    from anonymousnet.align.region import Region

VERSION = 1
"""Goes up when the same settings and uniforms would give other answers."""
UNIFORMS = len(ATTRIBUTES)
"""Uniform numbers that `release` takes per image: one for each of the at most 40 groups."""


class Mechanism:
    """A population, a gamma for each of its groups, and the attributes released as they are."""

    def __init__(
        self,
        population: Population,
        gammas: Mapping[str, float],
        keep: tuple[str, ...] = (),
        follow: tuple[str, ...] = (),
    ) -> None:
        """`gammas`: group name -> chance of keeping, 0 to below 1; groups not named keep nothing.

        Raises ConfigError for an unknown group or attribute, or a gamma that protects nothing.
        """
        unknown = sorted(set(gammas) - {group.name for group in population.groups})
        unknown += sorted({*keep, *follow} - set(INDEX))
        if unknown:
            raise ConfigError(f"unknown groups or attributes {', '.join(unknown)}; see the population file")
        for name, gamma in gammas.items():
            _check_gamma(gamma, f"gamma of group '{name}'")
        self.population = population
        self.unprotected: tuple[str, ...] = tuple(name for name in ATTRIBUTES if name in keep)
        """Attributes released exactly; epsilon says nothing about them."""
        self.followed: tuple[str, ...] = tuple(name for name in ATTRIBUTES if name in follow and name not in keep)
        """Attributes released as the surroundings show them, whatever the face is."""
        self._fixed = [INDEX[name] for name in ATTRIBUTES if name in {*keep, *follow}]
        self.fingerprint = _fingerprint(population, sorted(gammas.items()), self.unprotected, self.followed)
        """32 bytes that stand for this mechanism. They belong into what the uniforms are derived from: another
        mechanism that drew with the same uniforms would give a second answer that does not simply add to the first."""
        settings = _settings(population, (*keep, *follow))
        self._kernels = assemble(settings, lambda c: gammas.get(c.setting.group.name, 0.0))

    @classmethod
    def solve(cls, population: Population, config: ObfuscateConfig) -> Mechanism:
        """The mechanism a configuration asks for: gammas from `epsilon` or `gamma`, lowered until `t` holds.

        Only groups that hold a `protect` attribute (all groups if none is named) keep anything. `split`
        equal: each of them costs the same; sensitivity: each has the same gamma, so that rarer values take a
        larger share. Raises ConfigError for an epsilon, gamma or t that cannot be had.
        """
        settings = _settings(population, (*config.keep, *config.followed))
        names = [s.group.name for s in settings if s.informative and _spends(s, config.protect)]
        gammas = dict.fromkeys(names, 0.0)
        if config.gamma is not None:
            _check_gamma(config.gamma, "obfuscate.gamma")
            gammas = dict.fromkeys(names, config.gamma)
        elif config.epsilon is not None and names:
            gammas = spend(settings, names, config.epsilon, config.split)
        if config.t is not None:
            gammas = cap(settings, gammas, config.t, population)
        mechanism = cls(population, gammas, config.keep, config.followed)
        # From the settings, not from the gammas, which different processors solve to different last digits.
        asked = config.model_dump(mode="json", exclude={"population"})
        mechanism.fingerprint = _fingerprint(population, sorted(asked.items()))
        return mechanism

    @property
    def gammas(self) -> dict[str, float]:
        """Group name -> chance of carrying the truth into the release."""
        return {kernel.setting.group.name: kernel.gamma for kernel in self._kernels}

    @functools.cached_property
    def epsilon(self) -> float:
        """Exact worst-case log-likelihood ratio for one face; infinite if all attributes are kept.

        >>> rng = np.random.default_rng(0)
        >>> table = np.zeros((1000, 40), dtype=bool); table[:200, INDEX["Smiling"]] = True
        >>> one = Mechanism(Population.learn(table), {"smile": 0.5})
        >>> math.isclose(one.epsilon, math.log(1 + 0.5 / (0.5 * 0.2)))
        True
        """
        return math.inf if len(self.unprotected) == len(ATTRIBUTES) else worst(self._kernels)

    @functools.cached_property
    def epsilons(self) -> dict[str, float]:
        """Group name -> what it adds to the worst case of the groups before it; they sum to `epsilon`.

        Groups that are kept whole are left out: see `unprotected`.
        """
        totals = [0.0] + [worst(self._kernels[: i + 1]) for i in range(len(self._kernels))]
        return {
            kernel.setting.group.name: after - before
            for kernel, before, after in zip(self._kernels, totals, totals[1:], strict=False)
            if not kernel.setting.kept_A.all()
        }

    @functools.cached_property
    def t(self) -> float:
        """Bound, over all data sets, of the expected distance of a released marginal from the population's.

        Total variation, which for one attribute is |released share - population's share|. The worst data set
        repeats one face; for a root attribute alone in its group the bound is attained: gamma max(p, 1-p).
        Kept attributes are not counted, what they do to others is.
        """
        return distance(self._kernels, self.population)

    def seen(self, read_B40: NDArray[np.bool_], shown_B40: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What counts as the truth: what was read in the face, but for followed attributes in its surroundings."""
        columns = [INDEX[name] for name in self.followed]
        truth_B40 = read_B40.copy()
        truth_B40[:, columns] = shown_B40[:, columns]
        return truth_B40

    def release(self, truth_B40: NDArray[np.bool_], uniforms_BU: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Released attributes (B, 40) of true ones (B, 40), drawn with (B, UNIFORMS) uniforms in [0, 1).

        Pure: the same arguments give the same answer, and each row depends on its own row of arguments only.
        """
        if truth_B40.shape[1:] != (len(ATTRIBUTES),) or truth_B40.dtype != np.bool_:
            raise ValueError(f"truth: expected bool (B, 40), got {truth_B40.dtype} {truth_B40.shape}")
        if uniforms_BU.shape != (len(truth_B40), UNIFORMS):
            raise ValueError(f"uniforms: expected {(len(truth_B40), UNIFORMS)}, got {uniforms_BU.shape}")
        released_B40 = np.zeros_like(truth_B40)
        drawn: dict[str, NDArray[np.intp]] = {}
        for kernel, steps_CJV, uniform_B in zip(self._kernels, self._steps, uniforms_BU.T, strict=False):
            setting, values = kernel.setting, kernel.setting.values(truth_B40)
            contexts = setting.contexts(_parents(setting, drawn, len(truth_B40)), values)
            _, cells, v = steps_CJV.shape
            rows = contexts * cells + setting.cell_CV[contexts, values]
            drawn[setting.group.name] = _pick(steps_CJV.reshape(-1, v), rows, uniform_B)
            released_B40[:, setting.group.columns] = setting.group.values_VA[drawn[setting.group.name]]
        released_B40[:, self._fixed] = truth_B40[:, self._fixed]
        return released_B40

    def log_likelihood(self, truth_B40: NDArray[np.bool_], released_B40: NDArray[np.bool_]) -> Floats:
        """ln P[release of truth = released], row by row; -inf where that cannot be."""
        total_B = np.zeros(len(truth_B40))
        drawn: dict[str, NDArray[np.intp]] = {}
        for kernel in self._kernels:
            setting, columns = kernel.setting, kernel.setting.group.columns
            values, drawn[setting.group.name] = setting.values(truth_B40), setting.values(released_B40)
            contexts = setting.contexts(_parents(setting, drawn, len(truth_B40)), values)
            chance_B = kernel.chance_CJV[contexts, setting.cell_CV[contexts, values], drawn[setting.group.name]]
            same_B = released_B40[:, columns] == setting.group.values_VA[drawn[setting.group.name]]
            same_B[:, setting.kept_A] = (released_B40 == truth_B40)[:, columns][:, setting.kept_A]
            with np.errstate(divide="ignore"):
                total_B += np.where(same_B.all(axis=1), np.log(chance_B), -np.inf)
        return total_B

    def marginals(self, truth_B40: NDArray[np.bool_]) -> Floats:
        """Exact expected share (40,) of each released attribute when these images are released."""
        shares_40 = np.zeros(len(ATTRIBUTES))
        chances: dict[str, Floats] = {}
        parents = {kernel.setting.group.parent for kernel in self._kernels}
        for kernel in self._kernels:
            group, values = kernel.setting.group, kernel.setting.values(truth_B40)
            above_BR = chances[group.parent] if group.parent else np.ones((len(truth_B40), 1))
            weight_VR = np.zeros((len(group.values_VA), above_BR.shape[1]))
            np.add.at(weight_VR, values, above_BR)
            drawn_V = np.einsum("vr,vrw->w", weight_VR, kernel.chance_VRV) / len(truth_B40)
            shares_40[group.columns] = drawn_V @ group.values_VA
            if group.name in parents:
                chances[group.name] = np.einsum("br,brw->bw", above_BR, kernel.chance_VRV[values])
        shares_40[self._fixed] = truth_B40[:, self._fixed].mean(axis=0)
        return shares_40

    @functools.cached_property
    def _steps(self) -> list[Floats]:
        """Cumulated chances; infinite from the last possible value on: rounding never draws another."""
        steps = []
        for kernel in self._kernels:
            possible_CJV = kernel.chance_CJV > 0
            later_CJV = np.logical_or.accumulate(possible_CJV[:, :, ::-1], axis=2)[:, :, ::-1]
            last_CJV = ~np.concatenate([later_CJV[:, :, 1:], np.zeros_like(later_CJV[:, :, :1])], axis=2)
            steps.append(np.where(last_CJV, np.inf, np.cumsum(kernel.chance_CJV, axis=2)))
        return steps


def covers(mechanism: Mechanism, strength: float, region: Region, guarantee: bool, alignment: float = 0.0) -> str:
    """What the epsilon of a release covers and what it does not, in words for evidence and reports.

    `alignment`: epsilon that each face spends on where its crop is placed. `guarantee` is False where a policy that
    looks at the source region again was switched on. The words "epsilon-DP for the pixels" are used only at strength 1
    with nothing that voids them.
    """
    if math.isinf(mechanism.epsilon):
        return "Nothing: every attribute is released as it is."
    epsilon = mechanism.epsilon + alignment
    words = [f"epsilon {epsilon:.4g} per face covers the vector of attributes that Stage II releases for it"]
    if mechanism.unprotected:
        words[0] += f", except {', '.join(mechanism.unprotected)}, which are released as they are"
    if mechanism.followed:
        words.append(f"Read in the surroundings, not in the {region.name}: {', '.join(mechanism.followed)}")
    if strength == 1 and guarantee:
        words.append(
            "The painted regions were made from these attributes alone: for any two photos that agree outside the "
            "painted regions and in the alignment, the release is epsilon-DP for the pixels of a face, and for a photo "
            "of n faces n times that epsilon covers the pixels of all"
        )
    elif strength == 1:
        words.append("Not the pixels: a policy that looks at the source region again was switched on")
    else:
        words.append(f"Not the pixels: at strength {strength:g} the generator saw some of the source region")
    words.append(
        f"Not covered: everything outside the painted region ({region.around}, and the attributes "
        "that show there), the alignment, other photos of the same person, and anyone who holds the key"
    )
    return ". ".join(words) + "."


def _fingerprint(population: Population, *settings: object) -> bytes:
    return hashlib.sha256(repr((VERSION, population.text(), *settings)).encode()).digest()


def _settings(population: Population, keep: tuple[str, ...]) -> list[Setting]:
    return [Setting.of(group, frozenset(keep)) for group in population.groups]


def _spends(setting: Setting, protect: tuple[str, ...]) -> bool:
    free = [n for n, kept in zip(setting.group.attributes, setting.kept_A, strict=True) if not kept]
    return bool(set(free) & set(protect)) if protect else bool(free)


def _parents(setting: Setting, drawn: Mapping[str, NDArray[np.intp]], rows: int) -> NDArray[np.intp]:
    parent = setting.group.parent
    return drawn[parent] if parent is not None else np.zeros(rows, dtype=np.intp)


def _pick(steps_LV: Floats, rows_B: NDArray[np.intp], uniform_B: Floats) -> NDArray[np.intp]:
    """For each uniform number how many steps of its row it has passed."""
    picked_B = np.empty(len(rows_B), dtype=np.intp)
    order = np.argsort(rows_B, kind="stable")
    rows, starts = np.unique(rows_B[order], return_index=True)
    for row, here in zip(rows, np.split(order, starts[1:]), strict=False):
        picked_B[here] = np.searchsorted(steps_LV[row], uniform_B[here], side="right")
    return picked_B


def _check_gamma(gamma: float, what: str) -> None:
    if not 0 <= gamma <= GAMMA_MAX:
        raise ConfigError(
            f"{what}: expected 0 to {GAMMA_MAX}, got {gamma:g}: keeping the truth always is no protection"
        )
