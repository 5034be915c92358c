"""Is it private now? Measured rates against a policy.

A figure PASSES when the upper end of its 95 % interval is within the limit, FAILS when the lower end is beyond it, and
is OPEN in between: too little was measured to say. One failing figure fails the release; one open figure leaves it
open. Subgroups are small, so their intervals are wide: they can fail a release, never keep it open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from anonymousnet.data.attributes import ALL
from anonymousnet.metrics.identity import Rate
from anonymousnet.privacy.attackers import Attack, Inference
from anonymousnet.privacy.matching import PAIRS, Matching, Pair

Status = Literal["pass", "fail", "open"]
FAR = "1e-3"


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits."""

    tar: float = 0.01
    """Share of pairs of one person accepted at FAR 1e-3."""
    rank1: float = 0.03
    """Share of probes whose person comes first in the gallery."""
    advantage: float = 0.02
    """Accuracy in reading true attributes, beyond always answering what most people have."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure against its limit."""

    attacker: str
    recogniser: str
    pair: Pair
    subgroup: str
    figure: str
    rate: Rate
    limit: float
    status: Status


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer and what it rests on."""

    answer: Status
    policy: Policy
    by_pair: dict[Pair, Status]
    """The same for each kind of attacker's knowledge."""
    inference: Status
    weakest: Finding
    """The figure furthest beyond (or nearest to) its limit, measured by the lower end of its interval."""
    why_open: list[str]


def judge(attacks: Sequence[Attack], inference: Inference, policy: Policy | None = None) -> Verdict:
    """The verdict on one release."""
    policy = policy or Policy()
    findings = [f for attack in attacks for f in _findings(attack, policy)]
    by_pair = {pair: _together(f.status for f in findings if f.pair == pair and _counts(f)) for pair in PAIRS}
    read = _status(inference.advantage, policy.advantage)
    why = []
    if not any(f.figure.startswith("TAR") for f in findings):
        by_pair = {pair: _together([status, "open"]) for pair, status in by_pair.items()}
        why.append(f"FAR {FAR} could not be measured: it needs 10,000 pairs of different people")
    if any(m.chance["1"] > policy.rank1 for attack in attacks for m in attack.matchings):
        why.append(f"with so few people, guessing alone reaches rank 1 more often than {policy.rank1:.0%}")
    weakest = max(findings, key=lambda f: (f.rate.low / f.limit, f.rate.value / f.limit))
    return Verdict(_together([*by_pair.values(), read]), policy, by_pair, read, weakest, why)


def _findings(attack: Attack, policy: Policy) -> Iterable[Finding]:
    for m in attack.matchings:
        if FAR in m.tar:
            # Where strangers are accepted as often as the person, nobody is recognised, however often that is.
            limit = max(policy.tar, m.false_accepts[FAR])
            yield _finding(attack, m, f"TAR at FAR {FAR}", m.tar[FAR], limit)
        found = _finding(attack, m, "rank 1", m.rank["1"], max(policy.rank1, m.chance["1"]))
        if m.chance["1"] > policy.rank1 and found.status == "pass":
            found = replace(found, status="open")
        yield found


def _finding(attack: Attack, m: Matching, figure: str, rate: Rate, limit: float) -> Finding:
    status = _status(rate, limit)
    return Finding(attack.attacker, attack.recogniser, m.pair, m.subgroup, figure, rate, limit, status)


def _status(rate: Rate, limit: float) -> Status:
    if rate.trials == 0:
        return "open"
    return "pass" if rate.high <= limit else "fail" if rate.low > limit else "open"


def _counts(finding: Finding) -> bool:
    return finding.subgroup == ALL or finding.status == "fail"


def _together(statuses: Iterable[Status]) -> Status:
    found = set(statuses)
    return "fail" if "fail" in found else "open" if "open" in found or not found else "pass"
