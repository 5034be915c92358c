"""Weights are verified before they are believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anonymousnet import weights
from anonymousnet.errors import WeightsError
from anonymousnet.nets.classifier import Classifier, ClassifierConfig
from anonymousnet.nets.generator import Generator

SHAPE = ClassifierConfig(px=32, width=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    net = Classifier(SHAPE)
    weights.write(tmp_path / "mine", "classifier", SHAPE.model_dump(), net.state_dict(), {"seed": 3})
    return tmp_path / "mine"


def test_round_trip_by_path(folder: Path) -> None:
    read = weights.read(str(folder))
    net = weights.build(read, Classifier)
    assert read.notes == {"seed": 3}
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 40)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_a_flipped_byte_is_refused_with_the_file_s_name(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="model.safetensors was altered"):
        weights.read(str(folder))


def test_older_weights_say_yes_above_a_half(tmp_path: Path) -> None:
    state = Classifier(SHAPE).state_dict()
    del state["threshold_40"]
    weights.write(tmp_path / "old", "classifier", SHAPE.model_dump(), state, {})
    net = weights.build(weights.read(str(tmp_path / "old")), Classifier)
    assert net.says(torch.tensor([[0.49, 0.51] * 20])).tolist() == [[False, True] * 20]
    del state["temperature_40"]
    weights.write(tmp_path / "lacking", "classifier", SHAPE.model_dump(), state, {})
    with pytest.raises(WeightsError, match="lacking do not fit a classifier"):
        weights.build(weights.read(str(tmp_path / "lacking")), Classifier)


def test_another_architecture_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="expected a generator, got a classifier"):
        weights.build(weights.read(str(folder)), Generator)


def test_weights_that_do_not_fit_their_config_are_refused(folder: Path) -> None:
    meta = json.loads((folder / "config.json").read_text())
    meta["config"]["width"] = 8
    (folder / "config.json").write_text(json.dumps(meta))
    with pytest.raises(WeightsError, match="do not fit"):
        weights.build(weights.read(str(folder)), Classifier)


@pytest.mark.parametrize("damage", ["{", "{}"])
def test_a_damaged_config_is_refused(folder: Path, damage: str) -> None:
    (folder / "config.json").write_text(damage)
    with pytest.raises(WeightsError, match="do not read"):
        weights.read(str(folder))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(WeightsError, match="no weights 'nothing': expected a shipped name"):
        weights.read("nothing")


@pytest.mark.parametrize("name", weights.shipped_names())
def test_shipped_weights_are_whole_and_have_a_card(name: str) -> None:
    read = weights.read(name)
    assert all(torch.isfinite(t).all() for t in read.tensors.values() if t.is_floating_point())
    card = (weights.SHIPPED / name / "README.md").read_text()
    assert "non-commercial research" in card


def test_shipped_weights_stay_small() -> None:
    assert sum(f.stat().st_size for f in weights.SHIPPED.rglob("*.safetensors")) < 60e6
