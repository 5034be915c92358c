"""What a request asks for, held against the server's policy and the key's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from anonymousnet.config import STRENGTHS, Config, ObfuscateConfig
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.subjects import BETWEEN
from anonymousnet.errors import AnonymousNetError
from anonymousnet.serve.keys import ApiKey
from anonymousnet.serve.problems import Problem


@dataclass(frozen=True, slots=True)
class Asked:
    """One request's settings, on their way through the graph."""

    obfuscate: ObfuscateConfig
    strength: float
    perturbation: float
    release: str
    """With the key's name before it: the holders of two keys learn nothing from each other's releases."""
    subject: str | None
    """Likewise."""
    key: str | None = None
    """Name of the API key, whose budget is charged."""
    budget: float | None = None
    """Of that key."""
    face_limit: float = math.inf
    """Most epsilon of a face, whatever settings it comes of."""
    photo_limit: float = math.inf
    """Most epsilon of all faces of a photo together, for that key."""
    buckets: tuple[str, ...] | None = None
    """Places that bulk jobs of that key may use; None: all that the server allows."""
    left_s: float = field(default=30.0, compare=False)
    """Seconds until the request is given up, when this was sent."""

    def config(self, base: Config) -> Config:
        """`base` under these settings."""
        return base.model_copy(update={
            "obfuscate": self.obfuscate,
            "synthesize": base.synthesize.model_copy(update={"strength": self.strength}),
            "perturb": base.perturb.model_copy(update={"epsilon": self.perturbation}),
            "release": base.release.model_copy(update={"name": self.release}),
        })  # fmt: skip

    def before(self, left_s: float) -> Asked:
        """The same with so many seconds left."""
        return replace(self, left_s=left_s)


@dataclass(frozen=True, slots=True)
class Query:
    """The query of a request; None and () mean the server's own setting."""

    epsilon: float | None = None
    strength: float | None = None
    perturbation: float | None = None
    keep: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    release: str | None = None
    subject: str | None = None


class OverPolicy(AnonymousNetError):
    """A photo's release would spend more epsilon than policy allows."""


def check_epsilon(asked: Asked, epsilon: float, faces: int) -> None:
    """Hold the epsilon of a face, as solved, and that of a photo of so many faces against policy. Raises OverPolicy."""
    if not epsilon <= asked.face_limit + 1e-9:
        raise OverPolicy(
            f"these settings spend epsilon {epsilon:.4g} on a face, and {asked.face_limit:.4g} is the most here: ask "
            "for a smaller epsilon"
        )
    if not faces * epsilon <= asked.photo_limit + 1e-9:
        raise OverPolicy(
            f"{faces} faces at epsilon {epsilon:.4g} spend {faces * epsilon:.4g}, and {asked.photo_limit:.4g} is the "
            f"most for a photo with this key: ask for at most {asked.photo_limit / faces:.4g}"
        )


def allows_unprotected(config: Config, key: ApiKey | None = None) -> bool:
    """Whether anything may be let out for which no epsilon can be stated: kept attributes, strengths below 1."""
    bounded = key is not None and (key.max_epsilon is not None or key.budget is not None)
    return not bounded and (config.release.ledger is None or config.release.allow_unprotected)


def allowed_strengths(config: Config, key: ApiKey | None = None) -> list[float]:
    """Strengths that may be asked for, ascending."""
    least = max(config.serve.min_strength, key.min_strength or 0 if key else 0)
    least = least if allows_unprotected(config, key) else 1.0
    return [strength for strength in sorted(STRENGTHS) if strength >= least]


def allowed_to_keep(config: Config, key: ApiKey | None = None) -> tuple[str, ...]:
    """Attributes that a request may keep."""
    return config.serve.keepable if allows_unprotected(config, key) else ()


def ask(query: Query, config: Config, key: ApiKey | None) -> Asked:
    """Check a query. Raises Problem: 422 for what cannot be, 403 for what is not allowed."""
    base, serve = config.obfuscate, config.serve
    most = min(serve.max_epsilon, key.max_epsilon or serve.max_epsilon) if key else serve.max_epsilon
    strength = config.synthesize.strength if query.strength is None else query.strength
    perturbation = config.perturb.epsilon if query.perturbation is None else query.perturbation
    _known({*query.keep, *query.protect})
    if strength not in STRENGTHS:
        raise Problem("bad-parameter", f"strength is one of {', '.join(map(str, STRENGTHS))}, got {strength:g}")
    if both := set(query.keep) & set(query.protect):
        raise Problem("bad-parameter", f"{', '.join(sorted(both))} cannot be both kept and protected")
    if query.epsilon is not None and not serve.min_epsilon <= query.epsilon <= most:
        raise Problem("policy", f"epsilon may be {serve.min_epsilon:g} to {most:g} here, got {query.epsilon:g}")
    if strength not in (may := allowed_strengths(config, key)):
        raise Problem("policy", f"strength may be {', '.join(map(str, may))} here, got {strength:g}")
    if perturbation > serve.max_perturbation:
        raise Problem(
            "policy", f"perturbation may be at most {serve.max_perturbation:.4g} here, got {perturbation:.4g}"
        )
    if beyond := set(query.keep) - set(allowed_to_keep(config, key)):
        raise Problem("policy", f"{', '.join(sorted(beyond))} may not be kept here")
    changes: dict[str, object] = {}
    if query.epsilon is not None:
        changes |= {"epsilon": query.epsilon, "gamma": None}
    if query.keep or query.protect:
        changes |= {"keep": _ordered(query.keep), "protect": _ordered(query.protect)}
    asked = ObfuscateConfig.model_validate({**base.model_dump(), **changes}) if changes else base
    if len(asked.keep) == len(ATTRIBUTES):
        raise Problem("policy", "all 40 attributes are kept, which protects nothing")
    if asked.keep and not allows_unprotected(config, key):  # the server's own setting, under a key that is bounded
        raise Problem("policy", f"{', '.join(asked.keep)} would be released as they are, which this key may not have")
    if asked.epsilon is not None and asked.epsilon > most:
        asked = ObfuscateConfig.model_validate({**asked.model_dump(), "epsilon": most})
    return Asked(
        asked, strength, perturbation, _of(key, query.release or config.release.name),
        None if query.subject is None else subject_of(key, query.subject), key.name if key else None,
        key.budget if key else None, most, (key.max_epsilon if key else None) or math.inf,
        key.buckets if key else None, serve.deadline_s,
    )  # fmt: skip


def subject_of(key: ApiKey | None, subject: str) -> str:
    """A subject, or each of several, as the ledger knows it: the holder of one key learns nothing about another's."""
    return BETWEEN.join(_of(key, name) for name in subject.split(BETWEEN))


def _of(key: ApiKey | None, name: str) -> str:
    return name if key is None else f"{key.name}/{name}"


def _ordered(names: tuple[str, ...]) -> tuple[str, ...]:
    """In the official order: the same request in another order is the same request, and draws the same."""
    return tuple(name for name in ATTRIBUTES if name in names)


def _known(names: set[str]) -> None:
    if unknown := sorted(names - set(ATTRIBUTES)):
        raise Problem("bad-parameter", f"unknown attributes {', '.join(unknown)[:200]}; the 40 names are CelebA's")
