"""Makes what chooses identity codes (nets/codes.py) for a generator, from paintings that people called odd or whole.

1. A judge: ridge regression from the embedder's features of a painting to whether it was called odd.
2. The judge looks at thousands of paintings, each of a code of its own. Ridge regression from the generator's style to
   how much odder a painting is than others of the same photo is what Codes chooses by; beside it counts how many of
   the released attributes the classifier does not read off the painting.

Both are closed forms, so the same labels and weights give the same file.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet import weights
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config, ObfuscateConfig
from anonymousnet.data.attributes import INDEX
from anonymousnet.data.celeba import CelebA
from anonymousnet.errors import DataError, WeightsError
from anonymousnet.nets.codes import Codes, CodesConfig
from anonymousnet.nets.generator import Generator, style
from anonymousnet.privacy.randomness import derive
from anonymousnet.stages.predict import Predict
from anonymousnet.stages.synthesize import Synthesize, codes
from anonymousnet.training.painting import painted
from anonymousnet.training.sight import Sight
from anonymousnet.training.targets import sized

GAIN = 1.75
"""How loud codes are to be heard once they are chosen (docs/adr/0019)."""
PAINTINGS, PHOTOS = 4000, 500
"""That the judge looks at, and of how many photos."""
UNREAD = 10.0
"""What a share of attributes that are not read back counts, beside oddness between 0 and 1."""
JUDGE_RIDGE, STYLE_RIDGE = 2.0, 0.3
"""Penalties, for standardized features and per feature."""
WINDOWS = ((1, slice(8, 28), slice(8, 24), 3), (2, slice(4, 14), slice(4, 12), 3), (3, slice(1, 7), slice(1, 7), 2))
"""What the judge reads of the embedder's maps: which map, the face's rows and columns in it, and the side of the
grid of means that they become."""
BATCH, DIGITS = 48, 16
FIRST = 1_000_000
"""Number of the first painting that the judge looks at: labelled ones have smaller numbers."""
FOLDS = 6

Progress = Callable[[Iterable[int]], Iterable[int]]


class Label(NamedTuple):
    """What was said of one painting."""

    generator: str
    """The first 16 digits of the generator's SHA-256."""
    photo: str
    """Name of CelebA's image."""
    number: int
    """What its draw of attributes and its code were derived from."""
    gain: float
    odd: bool


class Linear(NamedTuple):
    """x -> (x - mean) @ slope + bias."""

    mean: NDArray[np.float64]
    slope: NDArray[np.float64]
    bias: float

    def __call__(self, features_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,)"""
        found: NDArray[np.float64] = (features_ND - self.mean) @ self.slope + self.bias
        return found


@dataclass(frozen=True, slots=True)
class Made:
    """What was written, and how well it does on what it was not fitted to."""

    sha256: str
    labels: int
    paintings: int
    scores: dict[str, float]


def make_codes(name: str, out: Path, data: Path, config: Config, progress: Progress = iter) -> Made:
    """Codes for the generator `name`, into `out`, with the labels that are shipped.

    Raises WeightsError for other weights, DataError where labelled photos are not in `data`.
    """
    train, read, labels = CelebA.open(data).part("train"), weights.read(name), shipped_labels()
    painters = _painters(config, name, labels)
    judge, ranked = _judge(labels, painters, train, progress)
    looked = _look(painters[read.sha256[:DIGITS]], judge, train, config.seed, progress)
    scores = {"odd_ranked_above_whole": ranked}
    held = np.arange(PAINTINGS) % 5 == 0
    for what, values in (("odd", looked.odd_N), ("unread", looked.unread_N)):
        found = ridge(looked.style_NS[~held], values[~held], STYLE_RIDGE)(looked.style_NS[held])
        scores[f"{what}_correlation"] = float(np.corrcoef(found, values[held])[0, 1])
    chosen = Codes(CodesConfig(style=looked.style_NS.shape[1], generator=read.sha256))
    slope = ridge(looked.style_NS, looked.odd_N + UNREAD * looked.unread_N, STYLE_RIDGE).slope
    chosen.attributes_40.copy_(torch.from_numpy(train.attributes.mean(0)))
    chosen.oddness_S.copy_(torch.from_numpy(slope))
    chosen.gain.fill_(GAIN)
    notes = {"labels": len(labels), "paintings": PAINTINGS, "scores": scores}
    sha256 = weights.write(out, "codes", chosen.config.model_dump(), chosen.state_dict(), notes)
    return Made(sha256, len(labels), PAINTINGS, scores)


def shipped_labels() -> list[Label]:
    """What the developer said of paintings of training photos, by eye."""
    text = resources.files(__package__).joinpath("oddness.csv").read_text()
    rows = csv.DictReader(text.splitlines())
    return [Label(r["generator"], r["photo"], int(r["number"]), float(r["gain"]), r["odd"] == "1") for r in rows]


def ridge(features_ND: NDArray[np.floating], targets_N: NDArray[np.floating], penalty: float) -> Linear:
    """Least squares on standardized features, with a penalty on squared slopes (Hoerl and Kennard, 1970).

    Features and targets of any units; D times `penalty` is added to each standardized feature's sum of squares.
    """
    features = np.asarray(features_ND, np.float64)
    mean, spread = features.mean(0), features.std(0) + 1e-6
    standard = (features - mean) / spread
    n = features.shape[1]
    slope = np.linalg.solve(
        standard.T @ standard + penalty * n * np.eye(n), standard.T @ (targets_N - targets_N.mean())
    )
    return Linear(mean, slope / spread, float(targets_N.mean()))


def above(scores_N: NDArray[np.floating], odd_N: NDArray[np.bool_]) -> float:
    """Share of pairs of an odd and a whole painting in which the odd one scores higher (area under the ROC curve)."""
    return float((scores_N[odd_N][:, None] > scores_N[~odd_N][None]).mean())


class _Painter:
    """A generator that hears any code, as loud as it is told to."""

    def __init__(self, config: Config, name: str) -> None:
        region = weights.build(weights.read(name), Generator).config.region
        # By path: what chooses codes for shipped generators goes by their names.
        named = {"weights": str(weights.folder_of(name)), "region": region, "strength": 1.0, "code_weights": None}
        plain = config.model_copy(
            update={
                "synthesize": config.synthesize.model_copy(update=named),
                "perturb": config.perturb.model_copy(update={"epsilon": 0.0}),
                "obfuscate": ObfuscateConfig(),  # as labelled: other settings draw other attributes
            }
        )
        self.anonymizer = Anonymizer.load(plain, bytes(32))
        stages = {stage.name: stage for stage in self.anonymizer.stages}
        predict, synthesize = stages["predict"], stages["synthesize"]
        assert isinstance(predict, Predict)
        assert isinstance(synthesize, Synthesize)
        self.predict, self.generator = predict, synthesize.generator
        self.embedder = self.anonymizer.runner.place(Sight().embedder)

    def paint(self, faces_B3HW: NDArray[np.uint8], numbers: Sequence[int], gain: float) -> tuple[Tensor, Tensor]:
        """(faces in [-1, 1] of 256 levels, released attributes: bool (B, 40))."""
        self.generator.gain = gain
        draws, keys = ([derive(bytes(32), label, str(number)) for number in numbers] for label in ("L", "LC"))
        faces, released = painted(self.anonymizer, faces_B3HW, draws, keys)
        return ((faces + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1, released

    def features(self, faces_B3HW: Tensor) -> NDArray[np.float64]:
        """What the judge reads of faces."""
        return self.anonymizer.runner(self._windows, sized(faces_B3HW, self.embedder.config.px)).double().numpy()

    def _windows(self, faces_B3HW: Tensor) -> Tensor:
        maps = self.embedder.trunk.maps(faces_B3HW)
        parts = [(maps[i].float()[:, :, rows, columns], side) for i, rows, columns, side in WINDOWS]
        return torch.cat([F.adaptive_avg_pool2d(part, side).flatten(1) for part, side in parts], 1)

    def styles(self, attributes_N40: NDArray[np.bool_], numbers: Sequence[int]) -> NDArray[np.float64]:
        """The styles of paintings of these numbers at GAIN."""
        keys = tuple(derive(bytes(32), "LC", str(number)) for number in numbers)
        code, _ = codes(keys, self.generator.config.code, 1)
        attributes, device = torch.from_numpy(attributes_N40).float(), self.anonymizer.runner.device
        with torch.inference_mode():
            return style(self.generator.mapping, attributes.to(device), code.to(device), GAIN).double().cpu().numpy()


@dataclass(frozen=True, slots=True)
class _Looked:
    """N paintings, each of a code of its own, and how they compare with others of the same photo."""

    style_NS: NDArray[np.float64]
    odd_N: NDArray[np.float64]
    unread_N: NDArray[np.float64]


def _painters(config: Config, name: str, labels: Sequence[Label]) -> dict[str, _Painter]:
    """Of the generator called `name`, and of those whose paintings were labelled, by the start of their hash."""
    there = {weights.sha256_of(other)[:DIGITS]: other for other in (*weights.shipped_names(), name)}
    wanted = {label.generator for label in labels}
    if missing := wanted - set(there):
        raise WeightsError(
            f"labels are of paintings by generator {', '.join(sorted(missing))}…, which is not there; look at "
            "paintings of the generators that are, and write down which are odd"
        )
    wanted.add(weights.sha256_of(name)[:DIGITS])
    return {digits: _Painter(config, there[digits]) for digits in sorted(wanted)}


def _judge(
    labels: Sequence[Label], painters: dict[str, _Painter], train: CelebA, progress: Progress
) -> tuple[Linear, float]:
    """(the judge, how often it ranks an odd painting above a whole one among labels that it was not fitted to)."""
    rows = {name: row for row, name in enumerate(train.names)}
    if missing := [label.photo for label in labels if label.photo not in rows]:
        raise DataError(f"expected the labelled training photos, {len(missing)} are not there, such as {missing[0]}")
    features = []
    alike = [list(some) for _, some in itertools.groupby(labels, lambda label: (label.generator, label.gain))]
    batches = [some[start : start + BATCH] for some in alike for start in range(0, len(some), BATCH)]
    for i in progress(range(len(batches))):
        some = batches[i]
        painter, gain = painters[some[0].generator], some[0].gain
        faces = train.take(np.array([rows[label.photo] for label in some])).faces(painter.anonymizer.face_px)
        features.append(painter.features(painter.paint(faces, [label.number for label in some], gain)[0]))
    all_ND, odd_N = np.concatenate(features), np.array([label.odd for label in labels])
    fold, scores = np.arange(len(odd_N)) % FOLDS, np.empty(len(odd_N))
    for i in range(FOLDS):
        scores[fold == i] = ridge(all_ND[fold != i], odd_N[fold != i], JUDGE_RIDGE)(all_ND[fold == i])
    return ridge(all_ND, odd_N, JUDGE_RIDGE), above(scores, odd_N)


def _look(painter: _Painter, judge: Linear, train: CelebA, seed: int, progress: Progress) -> _Looked:
    """PAINTINGS of PHOTOS, judged."""
    rng = np.random.default_rng(seed)
    photos = rng.permutation(len(train))[:PHOTOS]
    faces = train.take(photos).faces(painter.anonymizer.face_px)
    which = rng.integers(0, len(photos), PAINTINGS)
    inside = [INDEX[name] for name in painter.anonymizer.region.inside]
    odd, unread, released = [], [], []
    for start in progress(range(0, PAINTINGS, BATCH)):
        rows = range(start, min(start + BATCH, PAINTINGS))
        made, said = painter.paint(faces[which[rows]], [FIRST + row for row in rows], GAIN)
        odd.append(judge(painter.features(made)))
        read = painter.predict.classifier.says(painter.predict.probabilities(painter.predict.classifier, made))
        unread.append((read != said)[:, inside].double().mean(1).numpy())
        released.append(said.numpy())
    styles = painter.styles(np.concatenate(released), [FIRST + row for row in range(PAINTINGS)])
    return _Looked(styles, *(centred(np.concatenate(values), which) for values in (odd, unread)))


def centred(values_N: NDArray[np.float64], group_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values less the mean of their group."""
    means = np.bincount(group_N, values_N) / np.bincount(group_N).clip(1)
    found: NDArray[np.float64] = values_N - means[group_N]
    return found
