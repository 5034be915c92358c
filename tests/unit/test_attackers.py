"""Attackers, thresholds and intervals, on faces made of noise and recognisers whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anonymousnet.config import Config
from anonymousnet.data.attributes import ALL, INDEX
from anonymousnet.device import Runner
from anonymousnet.errors import ConfigError, DataError
from anonymousnet.metrics.bootstrap import clustered
from anonymousnet.metrics.identity import Rate
from anonymousnet.nets.classifier import Classifier, ClassifierConfig
from anonymousnet.nets.embedder import Embedder, EmbedderConfig
from anonymousnet.privacy import attackers, recognisers
from anonymousnet.privacy.attackers import (
    Inference,
    Scored,
    infer,
    known_people,
    naive,
    parrot,
    reversal,
    some_of_each,
)  # fmt: skip
from anonymousnet.privacy.finetune import Effort
from anonymousnet.privacy.matching import Matching, match, thresholds
from anonymousnet.privacy.methods import METHODS
from anonymousnet.privacy.pairs import Pairs
from anonymousnet.privacy.recognisers import Ours
from anonymousnet.privacy.verdict import Policy, judge

PEOPLE, EACH, PX = 50, 4, 32
RUNNER = Runner("cpu", "fp32", 32)
QUICK = Effort(steps=3, batch=8)


class Projection:
    """A recogniser that looks at the middle of the face alone, through a fixed random projection."""

    name = "projection"

    def embed(self, faces_N3HW: np.ndarray) -> np.ndarray:
        side = faces_N3HW.shape[-1]
        middle = slice(int(0.45 * side), int(0.8 * side))
        flat = faces_N3HW[:, :, middle, middle].reshape(len(faces_N3HW), -1).astype(np.float32) / 255 - 0.5
        matrix = np.random.default_rng(5).normal(size=(flat.shape[1], 64)).astype(np.float32)
        found = flat @ matrix
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def people(seed: int = 0) -> Pairs:
    """EACH noisy views of each of PEOPLE random patterns; Male goes with the person and is painted into the face."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(PEOPLE) + 100, EACH)
    base = np.kron(rng.uniform(60, 190, (PEOPLE, 3, PX // 4, PX // 4)), np.ones((4, 4)))
    truth = np.zeros((len(ids), 40), bool)
    male = rng.random(PEOPLE) < 0.5
    truth[:, INDEX["Male"]] = male[ids - 100]
    truth[:, INDEX["Young"]] = rng.random(len(ids)) < 0.7
    faces = base[ids - 100] + rng.normal(0, 12, (len(ids), 3, PX, PX))
    faces = faces.clip(0, 255).astype(np.uint8)
    return Pairs(faces, faces.copy(), ids, truth, truth.copy())


def hidden(method: str) -> Pairs:
    pairs = people()
    return pairs.under(METHODS[method](pairs.sources_N3HW), None)


def attack(pairs: Pairs) -> dict[str, Matching]:
    eye = Projection()
    found = naive(eye.name, eye.embed(pairs.sources_N3HW), eye.embed(pairs.released_N3HW), pairs.identities_N)
    return {m.pair: m for m in found.matchings}


def test_untouched_faces_are_recognised() -> None:
    found = attack(hidden("untouched"))
    assert found["own"].rank["1"].value == 1
    assert found["other"].rank["1"].value > 0.95
    assert found["other"].tar["1e-3"].value > 0.9
    assert found["released"].tar["1e-3"].value > 0.9


def test_black_boxes_are_not_although_they_all_look_alike() -> None:
    found = attack(hidden("black box"))
    for pair in ("own", "other", "released"):
        rate = found[pair].rank["1"]
        assert rate.low <= found[pair].chance["1"] <= rate.high
    # Every released face looks like every other: a full TAR that the false accepts give away.
    assert found["released"].false_accepts["1e-3"] > 0.9


def test_the_own_photo_is_out_of_the_gallery_of_others() -> None:
    pairs = people()
    rng = np.random.default_rng(1)
    strangers = replace(pairs, sources_N3HW=rng.integers(0, 255, pairs.sources_N3HW.shape, np.uint8))
    strangers = strangers.under(strangers.sources_N3HW.copy(), None)
    found = attack(strangers)
    assert found["own"].rank["1"].value == 1
    assert found["other"].rank["1"].value < 0.15


def test_thresholds_never_use_released_faces() -> None:
    pairs, eye = people(), Projection()
    clean = eye.embed(pairs.sources_N3HW)
    limits = thresholds(clean, pairs.identities_N)
    for method in ("untouched", "black box", "noise"):
        released = eye.embed(METHODS[method](pairs.sources_N3HW))
        assert naive("x", clean, released, pairs.identities_N).impostors == limits.impostors
        tar = match(clean, released, pairs.identities_N, limits)[0].tar["1e-3"].value
        assert tar == np.mean((clean * released).sum(1) > limits.at["1e-3"])


def test_a_small_far_is_refused_from_too_few_impostors() -> None:
    pairs, eye = people().take(np.arange(100)), Projection()
    limits = thresholds(eye.embed(pairs.sources_N3HW), pairs.identities_N)
    assert set(limits.at) == {"1e-2"}
    few = pairs.take(np.arange(20))
    with pytest.raises(DataError, match=r"at least 1000 impostor pairs, got 160"):
        thresholds(eye.embed(few.sources_N3HW), few.identities_N)


def test_intervals_contain_the_truth() -> None:
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(150), 5)
    inside = 0
    for _ in range(200):
        chances = rng.beta(0.5, 4.5, 150)  # people differ: trials of one person stand or fall together
        rate = clustered(rng.random(750) < chances[clusters], clusters)
        inside += rate.low <= 0.1 <= rate.high
    assert inside >= 182


def test_an_interval_of_no_success_is_not_nothing() -> None:
    rate = clustered(np.zeros(300, bool), np.repeat(np.arange(60), 5))
    assert rate.value == rate.low == 0
    assert rate.high > 0.01


def test_subgroups_split_the_probes() -> None:
    pairs, eye = people(), Projection()
    vectors = eye.embed(pairs.sources_N3HW)
    groups = pairs.subgroups()
    found = naive("x", vectors, vectors, pairs.identities_N, groups).matchings
    probes = {m.subgroup: m.probes for m in found if m.pair == "other"}
    assert probes[ALL] == probes["Male: yes"] + probes["Male: no"] == len(pairs)
    assert "Pale Skin: yes" not in probes  # nobody here


def split(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """(known, unknown)."""
    known = known_people(pairs.identities_N)
    return pairs.take(np.flatnonzero(known)), pairs.take(np.flatnonzero(~known))


def scored(others: Pairs, clean: dict[str, np.ndarray]) -> Scored:
    return Scored(others, np.arange(len(others)), clean, split=False)


def test_some_probes_of_each_person_against_the_whole_gallery() -> None:
    pairs, eye = people(), Projection()
    rows = some_of_each(pairs.identities_N, 2)
    assert np.array_equal(np.unique(pairs.identities_N[rows], return_counts=True)[1], np.full(PEOPLE, 2))
    clean = eye.embed(pairs.sources_N3HW)
    some = Scored(pairs, rows, {eye.name: clean}, split=True)
    found = some.attack("naive", eye.name, eye.embed(some.released_P3HW)).matchings
    whole = match(clean, clean, pairs.identities_N, thresholds(clean, pairs.identities_N))
    by = {m.pair: m for m in found if m.subgroup == ALL}
    assert by["own"].probes == len(rows) == 2 * PEOPLE
    assert by["other"].people == PEOPLE
    assert by["other"].rank["1"].value == pytest.approx(whole[1].rank["1"].value, abs=0.05)
    assert {m.subgroup for m in found} > {ALL, "Male: yes"}


def test_known_people_are_half_and_whole_people() -> None:
    ids = people().identities_N
    known = known_people(ids)
    assert known.sum() == len(ids) // 2
    assert not set(ids[known]) & set(ids[~known])
    assert np.array_equal(known, known_people(ids))


def test_parrot_scores_people_it_never_saw() -> None:
    torch.manual_seed(0)
    net = Embedder(EmbedderConfig(px=PX, width=8, dimensions=32))
    pairs = hidden("pixelate")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    known, others = split(pairs)
    found = parrot(known, Ours(net, RUNNER).embed(known.sources_N3HW), scored(others, {}), net, RUNNER, QUICK)
    assert found.attacker == "parrot"
    assert found.matchings[0].people == PEOPLE // 2
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the embedder itself is left alone"


def test_reversal_learns_to_undo_what_can_be_undone() -> None:
    pairs, eye = people(), Projection()
    negative = pairs.under(255 - pairs.sources_N3HW, None)  # hides from the eye, hides nothing
    known, others = split(negative)
    clean = {eye.name: eye.embed(others.sources_N3HW)}
    at_first = attack(negative)["own"].rank["1"].value
    (found,) = reversal(known, scored(others, clean), [eye], RUNNER, Effort(steps=240, batch=16))
    assert at_first < 0.1
    assert found.matchings[0].rank["1"].value > 0.5


def test_inference_finds_what_the_picture_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attackers, "INFERENCE_LR", 1e-2)  # this classifier knows nothing yet
    torch.manual_seed(0)
    pairs = people()
    pairs.released_N3HW[pairs.truth_N40[:, INDEX["Male"]]] //= 3
    net = Classifier(ClassifierConfig(px=PX, width=8))
    with torch.no_grad():  # untrained, and without batch statistics, its features would all but vanish
        for weight in net.trunk.parameters():
            weight.mul_(4 if weight.ndim == 4 else 1)
    found = infer(*split(pairs), net, RUNNER, Effort(steps=80, batch=16))
    assert isinstance(found, Inference)
    assert found.most[0][0] == "Male"
    assert found.most[0][1] > found.most[0][2]
    assert found.as_released is not None
    assert found.as_released.value == 1  # here the release says the truth
    assert found.advantage.low <= found.advantage.value <= found.advantage.high


def test_the_verdict_follows_the_interval() -> None:
    pairs, eye = people(), Projection()
    clean = eye.embed(pairs.sources_N3HW)
    nothing = Inference(*[Rate(0.8, 0.79, 0.81, 999)] * 2, None, 0.5, Rate(0.0, -0.01, 0.01, 999), [], {})
    bad = judge([naive("x", clean, clean, pairs.identities_N)], nothing)
    assert bad.answer == "fail"
    assert bad.weakest.rate.value > 0.9
    rng = np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
    lost = naive("x", clean, rng / np.linalg.norm(rng, axis=1, keepdims=True), pairs.identities_N)
    assert judge([lost], nothing).answer == "open"  # 50 people: guessing alone may break a limit of 3 %
    assert judge([lost], nothing, Policy(tar=0.1, rank1=0.2)).answer == "pass"
    told = Inference(*[Rate(0.8, 0.79, 0.81, 999)] * 2, None, 0.5, Rate(0.2, 0.1, 0.3, 999), [], {})
    assert judge([lost], told, Policy(tar=0.1, rank1=0.2)).answer == "fail"


def test_an_unknown_recogniser_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected ours, dlib or onnx:PATH"):
        recognisers.load("facenet", Config(), RUNNER)
    with pytest.raises(ConfigError, match="expected a file, found none"):
        recognisers.load("onnx:/nowhere.onnx", Config(), RUNNER)
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(ConfigError, match="does not load"):
        recognisers.load(f"onnx:{tmp_path / 'x.onnx'}", Config(), RUNNER)


def test_dlib_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognisers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"anonymousnet\[judge\]"):
        recognisers.load("dlib", Config(), RUNNER)
