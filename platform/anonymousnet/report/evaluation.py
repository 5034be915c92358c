"""The evaluation as one HTML page in a privacy officer's words. Aggregates only; it needs nothing but itself."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from anonymousnet.align.region import REGIONS
from anonymousnet.data.attributes import ALL
from anonymousnet.metrics.identity import Rate
from anonymousnet.privacy.attackers import Attack
from anonymousnet.privacy.examine import Examined
from anonymousnet.privacy.matching import Matching, Pair
from anonymousnet.privacy.sweep import Point
from anonymousnet.report.plots import Bar, bars, curve

if TYPE_CHECKING:
    from anonymousnet.evaluation import Evaluation

BOX = "black box"
WORDS: dict[str, str] = {
    "own": "the very original in the attacker's hands",
    "other": "other photos of the person",
    "released": "other released photos of the person",
}
ANSWERS = {"pass": "Yes", "fail": "No", "open": "Not shown"}


@dataclass(frozen=True, slots=True)
class Test:
    """One of the three tests at the head of the page."""

    name: str
    question: str
    figure: str
    status: str
    detail: str


def evaluation_page(result: Evaluation) -> str:
    """The page as HTML text. The same arguments give the same bytes."""
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"rate": rate, "percent": percent, "number": number}
    source = resources.files("anonymousnet.report").joinpath("evaluation.html").read_text("utf-8")
    html = page.from_string(source).render(
        e=result,
        answer=ANSWERS[result.verdict.answer],
        tests=_tests(result),
        words=WORDS,
        answers=ANSWERS,
        rows=[_row(examined) for examined in result.methods],
        everyone=[(attack, {m.pair: m for m in attack.matchings if m.subgroup == ALL}) for attack in result.everyone],
        subgroups=_subgroups(result),
        comparison=Markup(_comparison(result)),
        knobs=[_knob(knob, result) for knob in ("strength", "epsilon", "perturbation") if _points(result, knob)],
        advice=advice(result),
        policy=result.verdict.policy,
        region=REGIONS[result.facts["region"]],
        finite=result.facts["epsilon"] is not None and math.isfinite(result.facts["epsilon"]),
    )
    # A figure and an interval each stay in one piece; between them a narrow column may break.
    html = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", html)
    html = re.sub(r"(\[-?[\d.e-]+), (?=[-\d])", "\\1,\N{NO-BREAK SPACE}", html)
    # A folder name that is not UTF-8 arrives with lone surrogates, which no page can hold.
    return html.encode("utf-8", "replace").decode()


def percent(value: float) -> str:
    """A share in percent, to as many digits as a reader can use."""
    if not math.isfinite(value):
        return "n/a"
    return f"{100 * value:.1f} %" if abs(value) >= 0.0995 else f"{100 * value:.2f} %"


def rate(value: Rate | None) -> str:
    """A share with its interval."""
    if value is None or value.trials == 0:
        return "n/a"
    return f"{percent(value.value)} [{100 * value.low:.2f}, {100 * value.high:.2f}]"


def number(value: float) -> str:
    """Three digits; what is nothing but rounding is 0."""
    return f"{0.0 if abs(value) < 1e-4 else value:.3g}" if math.isfinite(value) else "n/a"


def strongest(attacks: Sequence[Attack], pair: Pair) -> tuple[Attack, Matching]:
    """The attack that ranks the right person first most often."""
    found = [(a, m) for a in attacks for m in a.matchings if m.pair == pair and m.subgroup == ALL]
    return max(found, key=lambda item: item[1].rank["1"].value)


def advice(result: Evaluation) -> str:
    """The setting that would reach the next level: the policy if it is not met, else half of today's figure."""
    chosen = next((p for p in result.curve if p.chosen), None)
    if chosen is None:
        return "No other setting was measured: the weights for it are not here."
    met = chosen.rank1.high <= result.verdict.policy.rank1 and chosen.own_rank1.high <= result.verdict.policy.rank1
    goal = chosen.rank1.value / 2 if met else result.verdict.policy.rank1
    aim = "half of today's rate" if met else f"the policy's {percent(goal)}"

    def worse(point: Point) -> float:
        return point.rank1.value if met else max(point.rank1.high, point.own_rank1.high)

    reached = [p for p in result.curve if not p.chosen and worse(p) <= goal]
    if not reached:
        return (
            f"The next level is {aim} in naming the person, with the whole interval. No setting measured here, changed "
            f"alone, is shown to reach it. {_nearest(result, chosen)}"
        )
    best = min(reached, key=lambda p: p.kid.value)
    return (
        f"The next level is {aim} in naming the person. {_setting(best)} reaches it: {rate(best.rank1)} instead of "
        f"{rate(chosen.rank1)} against other photos of the person, at a picture distance (KID, own features) of "
        f"{number(best.kid.value)} instead of {number(chosen.kid.value)}."
    )


def _nearest(result: Evaluation, chosen: Point) -> str:
    """The setting that names fewest, of those that are no worse with either kind of photo in the attacker's hands."""

    def rates(point: Point) -> str:
        return f"{rate(point.rank1)} by other photos of the person and {rate(point.own_rank1)} by the very original"

    better = [
        p for p in result.curve
        if not p.chosen and p.rank1.value <= chosen.rank1.value and p.own_rank1.value <= chosen.own_rank1.value
        and (p.rank1.value, p.own_rank1.value) != (chosen.rank1.value, chosen.own_rank1.value)
    ]  # fmt: skip
    if not better:
        return f"None is nearer than this release on both counts: {rates(chosen)}."
    near = min(better, key=lambda p: (p.rank1.value, p.own_rank1.value))
    return f"The nearest is {_setting(near)}: {rates(near)} (this release: {rates(chosen)})."


def _setting(point: Point) -> str:
    key = {"strength": "synthesize.strength", "epsilon": "obfuscate.epsilon", "perturbation": "perturb.epsilon"}
    return f"{key[point.knob]} = {point.value:.4g}"


def _tests(result: Evaluation) -> list[Test]:
    box = next((x for x in result.methods if x.method == BOX), None)
    region, tests = REGIONS[result.facts["region"]], []
    asked: tuple[tuple[str, Pair, str], ...] = (
        ("Singling out", "own", "Can a released face be picked out as the one made from a given photo?"),
        ("Linkability", "other", "Can a released face be linked to other photos of the person?"),
    )
    for name, pair, question in asked:
        attack, m = strongest(result.methods[0].attacks, pair)
        detail = (
            f"Strongest: the {attack.attacker} attacker with {attack.recogniser}, who puts the right person first "
            f"among {m.people:,}. Guessing reaches {percent(m.chance['1'])}."
        )
        if box:
            floor = strongest(box.attacks, pair)[1].rank["1"].value
            detail += f" With the {region.name} blacked out, {region.around} alone reach {percent(floor)}."
        tests.append(Test(name, question, rate(m.rank["1"]), _pair_status(result, name), detail))
    inference = result.methods[0].inference
    detail = (
        f"A trained reader is right on {percent(inference.accuracy.value)} of the true attributes; always answering "
        f"what most people have is right on {percent(inference.majority.value)}."
    )
    if box:
        gain = percent(box.inference.advantage.value)
        detail += f" With the {region.name} blacked out it gains {gain} from what is left alone."
    figure = rate(inference.advantage)
    question = "Can true attributes of the face be read off the released one, beyond the usual answer?"
    return [*tests, Test("Inference", question, figure, result.verdict.inference, detail)]


def _pair_status(result: Evaluation, name: str) -> str:
    by = result.verdict.by_pair
    if name == "Singling out":
        return by["own"]
    return "fail" if "fail" in (by["other"], by["released"]) else by["other"]


def _row(examined: Examined) -> dict[str, Any]:
    """One method's line in the big table."""
    cells = {}
    for attack in examined.attacks:
        by = {m.pair: m for m in attack.matchings if m.subgroup == ALL}
        cells[f"{attack.attacker}, {attack.recogniser}"] = by
    return {"name": examined.method, "cells": cells, "inference": examined.inference, "quality": examined.quality}


def _subgroups(result: Evaluation) -> list[dict[str, Any]]:
    """A row per subgroup: the strongest attacker's rates, inference, and quality."""
    attacks = [*result.everyone, *(a for a in result.methods[0].attacks if a.attacker != "naive")]
    rows = []
    for name, quality in {ALL: result.methods[0].quality, **result.methods[0].by_subgroup}.items():
        here = [(a, m) for a in attacks for m in a.matchings if m.subgroup == name and m.pair == "other"]
        own = [m for a in attacks for m in a.matchings if m.subgroup == name and m.pair == "own"]
        if not here:
            continue
        attack, worst = max(here, key=lambda item: item[1].rank["1"].value)
        inference = result.methods[0].inference
        rows.append({
            "name": "everyone" if name == ALL else name,
            "attacker": f"{attack.attacker}, {attack.recogniser}",
            "faces": max(m.probes for _, m in here),
            "tar": max((m.tar["1e-3"] for _, m in here if "1e-3" in m.tar), key=lambda r: r.value, default=None),
            "rank1": worst.rank["1"],
            "own": max((m.rank["1"] for m in own), key=lambda r: r.value),
            "advantage": inference.advantage if name == ALL else inference.by_subgroup.get(name),
            "quality": quality,
        })  # fmt: skip
    return rows


def _comparison(result: Evaluation) -> str:
    rows = []
    for examined in result.methods:
        _, m = strongest(examined.attacks, "other")
        r = m.rank["1"]
        rows.append(Bar(examined.method, r.value, r.low, r.high, examined is result.methods[0]))
    chance = strongest(result.methods[0].attacks, "other")[1].chance["1"]
    return bars("Rank 1 against other photos, strongest attacker", rows, result.verdict.policy.rank1, chance)


def _points(result: Evaluation, knob: str) -> list[Point]:
    points = [p for p in result.curve if p.knob == knob]
    return sorted(points, key=lambda p: p.value) if len(points) > 1 else []


def _knob(knob: str, result: Evaluation) -> dict[str, Any]:
    points = _points(result, knob)
    xs = [255 * p.value if knob == "perturbation" else p.value for p in points]
    named = [Bar("", p.rank1.value, p.rank1.low, p.rank1.high, p.chosen) for p in points]
    looks = [Bar("", p.kid.value, p.kid.low, p.kid.high, p.chosen) for p in points]
    log = knob == "epsilon"
    titles = {
        "strength": ("Strength", "1: the painter sees nothing of the face; 0: all of it"),
        "epsilon": ("Epsilon", "less says less about the person's attributes"),
        "perturbation": ("Perturbation", "largest change of a pixel, of 255"),
    }
    title, meaning = titles[knob]
    return {
        "title": title,
        "meaning": meaning,
        "points": list(zip(xs, points, strict=True)),
        "named": Markup(curve(f"{title}: person named", xs, named, result.verdict.policy.rank1, True, log)),
        "looks": Markup(curve(f"{title}: picture distance", xs, looks, None, False, log)),
    }


def summary_lines(result: Evaluation) -> list[str]:
    """The answer for a terminal: the three tests, and every attacker on every method in one table."""
    lines = [f"{test.name:<14}{ANSWERS[test.status]:<10}{test.figure}" for test in _tests(result)]
    lines += ["", f"{'method':<26}{'attacker':<20}{'TAR at FAR 1e-3, other photos':<32}rank 1, other photos"]
    for examined in result.methods:
        for attack in examined.attacks:
            m = next(m for m in attack.matchings if m.pair == "other" and m.subgroup == ALL)
            accepted = rate(m.tar["1e-3"]) if "1e-3" in m.tar else "refused: too few impostors"
            who = f"{attack.attacker}, {attack.recogniser}"
            lines.append(f"{examined.method:<26}{who:<20}{accepted:<32}{rate(m.rank['1'])}")
        gain = f"attributes beyond the usual answer: {rate(examined.inference.advantage)}"
        lines.append(f"{examined.method:<26}{'inference':<20}{gain}")
    return [*lines, "", advice(result)]
