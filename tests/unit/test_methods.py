"""The other methods: confined to our region, and doing what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anonymousnet.align.region import FACE, HEAD
from anonymousnet.device import Runner
from anonymousnet.nets.translator import Translator, TranslatorConfig
from anonymousnet.privacy.methods import METHODS, K, k_same, translation

FACES = np.random.default_rng(0).integers(0, 256, (30, 3, 64, 64), np.uint8)
REGION, WEIGHT = (mask[0].numpy() for mask in FACE.masks(64))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_outside_the_feather_changes(name: str) -> None:
    before = FACES.copy()
    after = METHODS[name](FACES)
    assert after.dtype == np.uint8
    assert after.shape == FACES.shape
    assert np.array_equal(after[:, :, WEIGHT == 0], FACES[:, :, WEIGHT == 0])
    assert np.array_equal(FACES, before), "the originals are left alone"
    assert np.array_equal(METHODS[name](FACES), after), "the same faces give the same release"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "untouched"])
def test_the_region_changes(name: str) -> None:
    inside = REGION > 0
    assert (METHODS[name](FACES)[:, :, inside] != FACES[:, :, inside]).mean() > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_another_region_is_changed_where_it_is_named(name: str) -> None:
    region, weight = (mask[0].numpy() for mask in HEAD.masks(64))
    after = METHODS[name](FACES, HEAD)
    assert np.array_equal(after[:, :, weight == 0], FACES[:, :, weight == 0])
    hair = (region > 0) & (WEIGHT == 0)
    assert name == "untouched" or (after[:, :, hair] != FACES[:, :, hair]).mean() > 0.3


def test_black_box_is_black() -> None:
    assert METHODS["black box"](FACES)[:, :, REGION > 0].max() == 0


def test_no_k_same_face_stands_alone() -> None:
    released = k_same(FACES)[:, :, REGION > 0].reshape(len(FACES), -1)
    _, counts = np.unique(released, axis=0, return_counts=True)
    assert counts.min() >= K


def test_translation_takes_attributes_and_stays_inside() -> None:
    net = Translator(TranslatorConfig(px=32, width=8, blocks=1))
    torch.nn.init.normal_(net.body[-1].weight, std=0.1)  # untrained, it changes nothing
    wanted = np.random.default_rng(1).random((len(FACES), 40)) < 0.5
    after = translation(FACES, wanted, net, Runner("cpu", "fp32", 8))
    assert np.array_equal(after[:, :, WEIGHT == 0], FACES[:, :, WEIGHT == 0])
    assert not np.array_equal(after, translation(FACES, ~wanted, net, Runner("cpu", "fp32", 8)))
