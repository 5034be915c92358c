"""Attack a release with the originals at hand, and write down how far the attackers got: `anonymousnet evaluate`.

PRIVATE by its nature: it is computed from originals. What it writes holds aggregates alone, no picture, no name and no
figure of a single photo, into a folder of its own that must not be the release's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anonymousnet import weights
from anonymousnet.config import Config
from anonymousnet.data.paths import beside, resolve_path
from anonymousnet.data.store import private_folder, write_atomic
from anonymousnet.errors import ConfigError, WeightsError
from anonymousnet.privacy import recognisers as judges
from anonymousnet.privacy import sweep
from anonymousnet.privacy.attackers import Attack, known_people, naive
from anonymousnet.privacy.examine import Clean, Examined, detect, embed, examine, read_features, tools
from anonymousnet.privacy.finetune import Effort
from anonymousnet.privacy.jobs import Job, Progress, Run, workers
from anonymousnet.privacy.matching import check_people, thresholds
from anonymousnet.privacy.methods import METHODS, THIS, TRANSLATION
from anonymousnet.privacy.pairs import Pairs, count_photos, open_release, true_attributes
from anonymousnet.privacy.verdict import Verdict, judge

CHUNK = 100
"""Faces per embedding job."""

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured; aggregates only."""

    release: str
    facts: dict[str, Any]
    """Epsilon, t, what they cover, strength, perturbation."""
    faces: int
    people: int
    scored_people: int
    """People that trained attackers did not learn from; the comparison of methods is made on them."""
    left_out: dict[str, int]
    """Why photos were not evaluated, and how many."""
    truth_from: str
    recognisers: list[str]
    missing: list[str]
    """What could not be measured, and why."""
    verdict: Verdict
    everyone: list[Attack]
    """The naive attacker on all faces, with subgroups."""
    methods: list[Examined]
    """This release first, then the other methods, all scored on the same people."""
    curve: list[sweep.Point]
    seconds: float
    report: str
    json: str


@dataclass(frozen=True, slots=True)
class Work:
    """What every job is handed."""

    config: Config
    names: tuple[str, ...]
    """Recognisers as the user names them."""
    pairs: Pairs
    known_N: NDArray[np.bool_]
    effort: Effort


def evaluate(
    release: Path, originals: Path, identities: Path, config: Config, out: Path | None = None,
    recognisers: Sequence[str] = (), progress: Progress = lambda items, _: items, effort: Effort | None = None,
) -> Evaluation:  # fmt: skip
    """Attack `release` and write privacy.json and privacy.html into `out` (default: RELEASE-evaluation, mode 0700).

    `identities`: lines of `name number`, as CelebA's. `recognisers`: ours, dlib, onnx:PATH; by default those
    installed. Raises ConfigError, StorageError, DataError, WeightsError in one line each.
    """
    from anonymousnet.report.evaluation import evaluation_page

    started = time.monotonic()
    release, originals, identities = map(resolve_path, (release, originals, identities))
    out = beside(release, "-evaluation") if out is None else resolve_path(out)
    _check_out(release, out)
    names, missing = _recognisers(recognisers, config)
    kit = tools(config, names)
    reader = true_attributes(kit.classifier, kit.runner)
    others, left_out = _other_methods(config)
    with workers(config.device, count_photos(release)) as run:
        opened = open_release(release, originals, identities, config, reader, run, progress)
        pairs = opened.pairs
        check_people(pairs.identities_N)
        known = known_people(pairs.identities_N)
        base = sweep.around(config, opened.facts)
        everyone, methods, curve = _attacked(
            Work(config, names, pairs, known, effort or Effort()), base, others, run, progress
        )
    missing += left_out + _missing_points(curve)
    trained = [attack for attack in methods[0].attacks if attack.attacker != "naive"]
    result = Evaluation(
        release.resolve().name, opened.facts, len(pairs), len(np.unique(pairs.identities_N)),
        len(np.unique(pairs.identities_N[~known])), opened.left_out, opened.truth_from,
        [recogniser.name for recogniser in kit.recognisers], missing,
        judge([*everyone, *trained], methods[0].inference), everyone, methods, curve,
        round(time.monotonic() - started, 1), str(out / "privacy.html"), str(out / "privacy.json"),
    )  # fmt: skip
    private_folder(out)
    write_atomic(out / "privacy.json", (json.dumps(plain(result), indent=1) + "\n").encode(), private=True)
    write_atomic(out / "privacy.html", evaluation_page(result).encode(), private=True)
    return result


def _attacked(
    work: Work, base: Config, others: Sequence[str], run: Run, progress: Progress
) -> tuple[list[Attack], list[Examined], list[sweep.Point]]:
    """(naive attackers on all faces, every method under every attacker, the curve)."""
    pairs, known = work.pairs, work.known_N
    clean = _embedded(run, work, pairs.sources_N3HW, progress)
    limits = {name: thresholds(vectors, pairs.identities_N) for name, vectors in clean.items()}
    thresholds(next(iter(clean.values()))[~known], pairs.identities_N[~known])  # too few: say so before the work
    released = _embedded(run, work, pairs.released_N3HW, progress)
    groups = pairs.subgroups()
    everyone = [naive(name, clean[name], released[name], pairs.identities_N, groups) for name in clean]
    here = (work.config, work.names, pairs.sources_N3HW)
    points, features = run([(detect, here), (read_features, here)], progress)
    originals = Clean(clean, points, features)
    jobs: list[Job] = []
    for name in (THIS, *others):
        seen = released if name == THIS else None
        jobs.append((examine, (work.config, work.names, name, pairs, known, originals, seen, work.effort)))
    for knob, value, chosen in sweep.settings(base):
        jobs.append((sweep.measure, (base, work.names, knob, value, chosen, pairs, originals, limits)))
    results = run(jobs, progress)
    return (
        everyone,
        [result for result in results if isinstance(result, Examined)],
        sweep.spread([result for result in results if isinstance(result, sweep.Point)], base),
    )


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numbers as JSON has them; what is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _check_out(release: Path, out: Path) -> None:
    inside, outside = out.resolve(), release.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise ConfigError(
            f"an evaluation is computed from originals and never stands beside a release: {out} and {release} overlap; "
            "choose another --out"
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: expected a folder, found a file; choose another")
    if out.exists():
        private_folder(out)  # one that others can read is told before the work


def _recognisers(asked: Sequence[str], config: Config) -> tuple[tuple[str, ...], list[str]]:
    """Those asked for, or those installed; and what is missing of the usual two."""
    names = tuple(dict.fromkeys(asked)) or judges.installed(config)
    if not names:
        raise ConfigError(
            "expected a recogniser, found none: train ours (`anonymousnet train embedder`), "
            "pip install 'anonymousnet[judge]', or name one with --recogniser onnx:PATH"
        )
    missing = []
    if "ours" not in names:
        missing.append("the parrot attacker and our own recogniser: the embedder is not among the recognisers")
    if "dlib" not in names:
        missing.append("dlib, the recogniser outside every loss: pip install 'anonymousnet[judge]'")
    return names, missing


def _missing_points(curve: Sequence[sweep.Point]) -> list[str]:
    if not curve:
        return ["the curve: weights for the release's own settings are not here"]
    if not any(point.knob == "strength" and point.value == 0 for point in curve):
        return ["the curve at strength 0: the translation's weights are not here"]
    return []


def _other_methods(config: Config) -> tuple[tuple[str, ...], list[str]]:
    """The methods that the release is compared with, and why one is missing."""
    try:
        weights.folder_of(config.synthesize.translation_weights)
    except WeightsError:
        return tuple(METHODS), [f"{TRANSLATION}: its weights are not here; `anonymousnet train translator`"]
    return (*METHODS, TRANSLATION), []


def _embedded(run: Run, work: Work, faces: NDArray[np.uint8], progress: Progress) -> Vectors:
    """Recogniser -> vectors of all faces."""
    chunks = [faces[start : start + CHUNK] for start in range(0, len(faces), CHUNK)]
    parts = run([(embed, (work.config, work.names, chunk)) for chunk in chunks], progress)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
