"""Codes are chosen by what their style promises, by nothing else, and alike in every batch; what they are chosen by is
found on paintings whose faults are planted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from anonymousnet import weights
from anonymousnet.cluster.cli import main
from anonymousnet.config import Config
from anonymousnet.data.celeba import CelebA
from anonymousnet.errors import DataError, WeightsError
from anonymousnet.nets.codes import Codes, CodesConfig
from anonymousnet.nets.generator import Generator, GeneratorConfig, style
from anonymousnet.parts import Parts
from anonymousnet.privacy.randomness import derive
from anonymousnet.stages.synthesize import codes
from anonymousnet.training import codes as module
from anonymousnet.training.codes import Label, above, centred, ridge, shipped_labels

SHAPE = GeneratorConfig(px=64, width=8, widest=32, code=16, style=32)
KEYS = tuple(derive(bytes(32), str(i)) for i in range(6))


def choice(gain: float = 1.5, generator: str = "0" * 64, **shape: int) -> Codes:
    made = Codes(CodesConfig(style=32, generator=generator, **shape))
    made.oddness_S.copy_(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    made.attributes_40.fill_(0.5)
    made.gain.fill_(gain)
    return made


def promise(generator: Generator, made: Codes, code_BC: torch.Tensor) -> torch.Tensor:
    attributes = made.attributes_40.expand(len(code_BC), -1)
    return style(generator.mapping, attributes, code_BC, float(made.gain)) @ made.oddness_S


def test_the_least_odd_code_is_taken_and_heard_louder() -> None:
    generator = Generator(SHAPE)
    made = choice().of(generator)
    assert generator.gain == 1.5
    plain, _ = codes(KEYS, 16, 8)
    chosen, _ = codes(KEYS, 16, 8, made)
    assert chosen.shape == plain.shape
    others = torch.randn(2000, 16)
    better = (promise(generator, made, chosen)[:, None] < promise(generator, made, others)).float().mean(1)
    assert better.min() > 0.8  # the best of 32 lies among the best 10 %, all but surely
    assert better.mean() > 0.93


def test_a_code_is_its_key_s_alone() -> None:
    made = choice().of(Generator(SHAPE))
    together, noise = codes(KEYS, 16, 8, made)
    for i, key in enumerate(KEYS):
        alone, its_noise = codes((key,), 16, 8, made)
        assert torch.equal(alone[0], together[i])
        assert torch.equal(its_noise[0], noise[i])
    assert torch.equal(noise, codes(KEYS, 16, 8)[1])  # the choice is of codes alone
    assert len({tuple(code) for code in together.tolist()}) == len(KEYS)
    assert codes((), 16, 8, made)[0].shape == (0, 16)


def test_the_gain_is_what_a_louder_code_would_be() -> None:
    generator, attributes, code = Generator(SHAPE), torch.rand(3, 40), torch.randn(3, 16)
    unit = code / code.square().mean(1, keepdim=True).sqrt()
    louder = generator.mapping(torch.cat([attributes * 2 - 1, 1.5 * unit], 1))
    assert torch.allclose(style(generator.mapping, attributes, code, 1.5), louder, atol=1e-5)


def test_codes_for_another_generator_are_refused(small_weights: list[str], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="whose style has length 32, got 128"):
        choice().of(Generator(GeneratorConfig(px=64, width=8, widest=32)))
    made = choice(generator="5" * 64)
    weights.write(tmp_path / "mine", "codes", made.config.model_dump(), made.state_dict(), {})
    config = Config.load(None, [*small_weights, f"synthesize.code_weights={tmp_path / 'mine'}"])
    with pytest.raises(WeightsError, match="expected codes for generator .*, got 5555555555555555…; make others"):
        Parts(config).stage("synthesize", config)


def test_own_generators_take_every_code_and_the_shipped_ones_theirs(small_weights: list[str]) -> None:
    assert Config.load(None, small_weights).synthesize.codes is None
    assert Config().synthesize.codes == "codes"
    assert Config.load(None, ["synthesize.region=head"]).synthesize.codes == "codes-head"
    for overrides in ([], ["synthesize.region=head"]):
        config = Config.load(None, overrides)
        stage = Parts(config).stage("synthesize", config)
        assert stage is not None
        assert stage.weights["codes"] == weights.read(config.synthesize.codes or "").sha256


def test_ridge_regression_finds_a_linear_function_and_shrinks_it() -> None:
    rng = np.random.default_rng(0)
    features, slope = rng.normal(3, (1, 10, 0.1), (500, 3)), np.array([2.0, -0.3, 5.0])
    targets = features @ slope + 7
    assert ridge(features, targets, 1e-6)(features) == pytest.approx(targets, abs=1e-3)
    shrunk = ridge(features, targets, 500 / 3)  # as much again as each standardized feature weighs
    assert shrunk.slope == pytest.approx(slope / 2, rel=0.1)
    assert shrunk(features).mean() == pytest.approx(targets.mean())


def test_values_are_compared_within_their_group() -> None:
    assert centred(np.array([1.0, 3.0, 10.0, 5.0]), np.array([0, 0, 3, 1])).tolist() == [-1, 1, 0, 0]


def test_the_share_of_pairs_in_the_right_order() -> None:
    assert above(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, True, False, True])) == 1
    assert above(np.array([0.1, 0.2, 0.3, 0.9]), np.array([False, True, False, True])) == 0.75


def test_the_shipped_labels_are_of_the_shipped_generators() -> None:
    labels = shipped_labels()
    shipped = {weights.read(name).sha256[:16] for name in ("generator", "generator-head")}
    assert {label.generator for label in labels} == shipped
    assert max(Counter((label.generator, label.number) for label in labels).values()) == 1
    assert 0.2 < np.mean([label.odd for label in labels]) < 0.6
    assert {label.gain for label in labels} == {1.0, 2.0}


def test_planted_faults_are_found(
    small_weights: list[str], small_celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is dark is called odd: chosen codes then paint lighter."""
    own = small_weights[2].split("=")[1]
    digits, names = weights.read(own).sha256[:16], CelebA.open(small_celeba).part("train").names
    numbered = [(names[i % len(names)], i) for i in range(96)]
    monkeypatch.setattr(module, "shipped_labels", lambda: [Label(digits, *one, 1.0, False) for one in numbered])
    monkeypatch.setattr(module, "PAINTINGS", 400)
    monkeypatch.setattr(module, "PHOTOS", 6)
    monkeypatch.setattr(module, "UNREAD", 0.0)

    def brightness(_: object, faces_B3HW: torch.Tensor) -> np.ndarray:
        return faces_B3HW.mean((2, 3)).double().numpy()

    def judge(*_: object) -> tuple[object, float]:
        return (lambda features_ND: -features_ND.mean(1)), 0.9

    monkeypatch.setattr(module._Painter, "features", brightness)
    monkeypatch.setattr(module, "_judge", judge)
    sets = [part for override in small_weights for part in ("--set", override)]
    told = CliRunner().invoke(
        main, ["weights", "codes", own, str(tmp_path / "mine"), "--data", str(small_celeba), "--json", *sets]
    )
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout)
    assert answer["scores"]["odd_correlation"] > 0.5
    config = Config.load(None, small_weights)
    painter = module._Painter(config, own)
    made = weights.build(weights.read(str(tmp_path / "mine")), Codes)
    assert made.config.generator == weights.read(own).sha256
    generator = weights.build(weights.read(own), Generator)
    faces = CelebA.open(small_celeba).part("train").faces(64)[:6]
    chosen, _ = codes(KEYS, 64, 64, made.of(generator))
    light = []
    for code in (codes(KEYS, 64, 64)[0], chosen):
        context = torch.from_numpy(faces).float() / 127.5 - 1
        region, _ = painter.anonymizer.region.masks(64)
        with torch.no_grad():
            painted = generator(
                painter.anonymizer.region.pixelated(context, 0), region.expand(6, -1, -1, -1), torch.ones(6),
                torch.full((6, 40), 0.5), code, torch.zeros(6, 1, 64, 64),
            )  # fmt: skip
        light.append(float((painted * region).sum() / region.sum() / 18))
    assert light[1] > light[0]


def test_labels_that_cannot_be_used_are_refused(
    small_weights: list[str], small_celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, own = Config.load(None, small_weights), small_weights[2].split("=")[1]
    digits = weights.read(own).sha256[:16]
    for label, error, words in (
        (Label("f" * 16, "000001.jpg", 0, 1.0, True), WeightsError, "paintings by generator ffffffffffffffff"),
        (Label(digits, "999999.jpg", 0, 1.0, True), DataError, "1 are not there, such as 999999.jpg"),
    ):
        monkeypatch.setattr(module, "shipped_labels", lambda label=label: [label])
        with pytest.raises(error, match=words):
            module.make_codes(own, tmp_path / "mine", small_celeba, config)
    assert not (tmp_path / "mine").exists()


def test_labelled_paintings_are_the_same_under_every_setting_of_stage_two(
    small_weights: list[str], small_celeba: Path
) -> None:
    own, faces = small_weights[2].split("=")[1], CelebA.open(small_celeba).part("train").faces(64)[:3]
    plain, other = (
        module._Painter(Config.load(None, [*small_weights, *more]), own).paint(faces, [0, 1, 2], 1.0)
        for more in ([], ["obfuscate.epsilon=2", "obfuscate.keep=[Smiling]"])
    )
    assert torch.equal(plain[0], other[0])
    assert torch.equal(plain[1], other[1])
