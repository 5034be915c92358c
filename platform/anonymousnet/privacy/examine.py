"""One way to hide faces against all attackers, and what is left of its quality: the jobs an evaluation is made of.

Jobs are plain functions of plain values, so that they run in this process or in others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet import weights
from anonymousnet.align.detect import Detector
from anonymousnet.config import Config
from anonymousnet.device import Runner, quickest
from anonymousnet.metrics import image
from anonymousnet.metrics.bootstrap import clustered
from anonymousnet.metrics.identity import Rate
from anonymousnet.metrics.image import Interval, Points
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.translator import Translator
from anonymousnet.privacy import recognisers
from anonymousnet.privacy.attackers import Attack, Inference, Scored, infer, parrot, reversal, some_of_each
from anonymousnet.privacy.finetune import Effort
from anonymousnet.privacy.methods import METHODS, THIS, TRANSLATION, translation
from anonymousnet.privacy.pairs import Pairs
from anonymousnet.privacy.recognisers import Ours, Recogniser, resized, unit_range

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]

DETECTED_FACES = 500
"""At most so many faces are handed to the detector for each method."""
COMPARED_PHOTOS = 2
"""Of methods that the release is compared with, so many released photos of each scored person are looked up."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What is left of the pictures. Likeness is measured in the painted region."""

    ssim: float
    psnr: float
    kid: Interval
    """In own features, not Inception."""
    fid: float
    """In own features, not Inception."""
    detected: Rate
    """Share of faces that the detector still sees."""
    landmark_error: float
    """Mean shift of the detector's five points, as a share of the distance between the eyes."""
    read_back: Rate | None
    """Share of released attributes of the painted region that the classifier reads off; None where there are none."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One method under all attackers."""

    method: str
    attacks: list[Attack]
    inference: Inference
    quality: Quality
    by_subgroup: dict[str, Quality]
    """Subgroup -> its quality; only for the release itself."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Networks that attackers and judges use."""

    runner: Runner
    recognisers: tuple[Recogniser, ...]
    classifier: Classifier
    detector: Detector

    @property
    def ours(self) -> Ours | None:
        """Our own embedder, the one the parrot starts from; None where it is not among the recognisers."""
        return next((r for r in self.recognisers if isinstance(r, Ours)), None)


@functools.lru_cache(maxsize=1)
def tools(config: Config, names: tuple[str, ...]) -> Tools:
    """Load the networks once per process. Raises WeightsError, ConfigError."""
    runner = Runner(config.device, quickest(config.device, config.precision), 32, steady=False)
    classifier = weights.build(weights.read(config.predict.weights), Classifier)
    judges = tuple(recognisers.load(name, config, runner) for name in names)
    return Tools(runner, judges, runner.place(classifier), Detector(config.align))


def embed(config: Config, names: tuple[str, ...], faces_N3HW: NDArray[np.uint8]) -> dict[str, Vectors]:
    """Job: recogniser -> vectors of some faces."""
    return recognisers.embeddings(tools(config, names).recognisers, faces_N3HW)


def read_features(config: Config, names: tuple[str, ...], faces_N3HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Job: own features of some faces."""
    return features(tools(config, names), faces_N3HW)


def sample(faces: int) -> NDArray[np.int64]:
    """Rows that are handed to the detector."""
    return np.linspace(0, faces - 1, min(faces, DETECTED_FACES)).astype(np.int64)


def detect(config: Config, names: tuple[str, ...], faces_N3HW: NDArray[np.uint8]) -> Points:
    """Job: the detector's landmarks of the sampled rows."""
    return image.detect(tools(config, names).detector, faces_N3HW[sample(len(faces_N3HW))])


@dataclass(frozen=True, slots=True)
class Clean:
    """What is known of the originals, whatever is done to them."""

    vectors: Mapping[str, Vectors]
    """Recogniser -> vectors of all N faces."""
    points: Points
    """The detector's landmarks of the sampled rows."""
    features_ND: NDArray[np.float64]
    """Own features of all N faces."""


def examine(
    config: Config, names: tuple[str, ...], method: str, pairs: Pairs, known_N: Mask, clean: Clean,
    released: Mapping[str, Vectors] | None, effort: Effort,
) -> Examined:  # fmt: skip
    """Job: every attacker on one method, scored on the people not `known`, and the method's quality.

    `pairs`: of the release; for a method it is compared with, the originals are hidden anew here. `released`:
    recogniser -> vectors of all N faces of the release itself: all photos are looked up then, and subgroups are told
    apart. None for other methods: COMPARED_PHOTOS of each person.
    """
    kit = tools(config, names)
    pairs = hidden(method, pairs, config, kit.runner)
    others = np.flatnonzero(~known_N)
    known, unknown = pairs.take(np.flatnonzero(known_N)), pairs.take(others)
    probes = np.arange(len(others)) if released else some_of_each(unknown.identities_N, COMPARED_PHOTOS)
    vectors = {name: vectors[others] for name, vectors in clean.vectors.items()}
    scored = Scored(unknown, probes, vectors, split=released is not None)
    attacks = []
    for judge in kit.recognisers:
        found = released[judge.name][others] if released else judge.embed(scored.released_P3HW)
        attacks.append(scored.attack("naive", judge.name, found))
    if kit.ours is not None:
        start = clean.vectors[kit.ours.name][known_N]
        attacks.append(parrot(known, start, scored, kit.ours.net, kit.runner, effort))
    attacks += reversal(known, scored, kit.recognisers, kit.runner, effort)
    inference = infer(known, unknown, kit.classifier, kit.runner, effort)
    seen = Seen.of(kit, pairs, clean)
    groups = pairs.subgroups() if released else {}
    by_subgroup = {name: seen.quality(members) for name, members in groups.items() if members.sum() >= 2}
    return Examined(method, attacks, inference, seen.quality(np.ones(len(pairs), np.bool_)), by_subgroup)


def hidden(method: str, pairs: Pairs, config: Config, runner: Runner) -> Pairs:
    """The same originals under another method; THIS leaves them as released."""
    if method == THIS:
        return pairs
    if method != TRANSLATION:
        return pairs.under(METHODS[method](pairs.sources_N3HW, pairs.region), None)
    assert pairs.said_N40 is not None
    net = weights.build(weights.read(config.synthesize.translation_weights), Translator)
    return pairs.under(translation(pairs.sources_N3HW, pairs.said_N40, net, runner, pairs.region), pairs.said_N40)


@dataclass(frozen=True, slots=True)
class Seen:
    """What quality is made of, face by face."""

    identities_N: NDArray[np.int64]
    real_ND: NDArray[np.float64]
    fake_ND: NDArray[np.float64]
    ssim_N: NDArray[np.float64]
    psnr_N: NDArray[np.float64]
    right_NA: Mask | None
    """Whether each released attribute is read off the released face."""
    sampled_S: NDArray[np.int64]
    before_S: Points
    after_S: Points

    @classmethod
    def of(cls, kit: Tools, pairs: Pairs, clean: Clean) -> Seen:
        rows = sample(len(pairs))
        similar, decibels = image.likeness(pairs.sources_N3HW, pairs.released_N3HW, pairs.region)
        fake = features(kit, pairs.released_N3HW)
        return cls(
            pairs.identities_N, clean.features_ND, fake, similar, decibels, _agreement(kit, pairs, fake), rows,
            clean.points, image.detect(kit.detector, pairs.released_N3HW[rows]),
        )  # fmt: skip

    def quality(self, members_N: Mask) -> Quality:
        """Of at least two members."""
        some = np.flatnonzero(members_N[self.sampled_S])
        before, after = ([points[i] for i in some] for points in (self.before_S, self.after_S))
        right = None if self.right_NA is None else self.right_NA[members_N]
        return Quality(
            ssim=float(self.ssim_N[members_N].mean()),
            psnr=float(self.psnr_N[members_N].mean()),
            kid=image.kid(self.real_ND[members_N], self.fake_ND[members_N]),
            fid=image.fid(self.real_ND[members_N], self.fake_ND[members_N]),
            detected=image.detection_rate(after),
            landmark_error=image.landmark_error(before, after),
            read_back=None if right is None else _share(right, self.identities_N[members_N]),
        )


def features(kit: Tools, faces_N3HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Own features of uint8 faces."""
    return image.features(kit.classifier, unit_range(resized(faces_N3HW, kit.classifier.config.px)), kit.runner)


def read_back(kit: Tools, pairs: Pairs, features_ND: NDArray[np.float64]) -> Rate | None:
    """Share of released attributes that the classifier reads off the released face, given its features."""
    right = _agreement(kit, pairs, features_ND)
    return None if right is None else _share(right, pairs.identities_N)


def _agreement(kit: Tools, pairs: Pairs, features_ND: NDArray[np.float64]) -> Mask | None:
    if pairs.said_N40 is None:
        return None
    with torch.inference_mode():
        logits = kit.classifier.head(torch.from_numpy(features_ND).float().to(kit.runner.device)).cpu()
    read = kit.classifier.says(kit.classifier.calibrated(logits)).numpy()
    return image.agreement(read, pairs.said_N40, pairs.region)


def _share(right_NA: Mask, ids_N: NDArray[np.int64]) -> Rate:
    return clustered(right_NA.ravel(), np.repeat(ids_N, right_NA.shape[1]))
