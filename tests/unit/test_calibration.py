"""A classifier's temperatures and thresholds are found on faces it was not trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from anonymousnet import weights
from anonymousnet.cluster.cli import main
from anonymousnet.data.celeba import CelebA
from anonymousnet.metrics.attributes import decision_thresholds
from anonymousnet.nets.classifier import Classifier, ClassifierConfig
from anonymousnet.training.calibration import BALANCE, fit_temperatures


def test_the_temperature_that_was_taken_away_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 40))
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    for temperature in (0.7, 1.0, 1.6):
        assert fit_temperatures(logits * temperature, truth) == pytest.approx(temperature, rel=0.06)


def test_calibrated_weights_carry_what_was_fitted(small_celeba: Path, tmp_path: Path) -> None:
    shape, folder = ClassifierConfig(px=32, width=4), tmp_path / "mine"
    torch.manual_seed(0)
    weights.write(folder, "classifier", shape.model_dump(), Classifier(shape).state_dict(), {"seed": 3})
    before = weights.read(str(folder))
    told = CliRunner().invoke(main, ["weights", "calibrate", str(folder), "--data", str(small_celeba), "--json"])
    assert told.exit_code == 0, told.output
    answer, after = json.loads(told.output), weights.read(str(folder))
    assert answer["sha256"] == after.sha256 != before.sha256
    prevalence = CelebA.open(small_celeba).part("train").attributes.mean(0)
    expected = decision_thresholds(prevalence, BALANCE)
    assert after.tensors["threshold_40"].numpy() == pytest.approx(expected, abs=1e-3)
    assert after.notes["seed"] == 3
    assert after.notes["calibration"]["balance"] == BALANCE
    fitted = {"threshold_40", "temperature_40"}
    assert all(torch.equal(after.tensors[k], v) for k, v in before.tensors.items() if k not in fitted)


def test_only_classifiers_are_calibrated(small_celeba: Path) -> None:
    folder = weights.SHIPPED / "embedder"
    told = CliRunner().invoke(main, ["weights", "calibrate", str(folder), "--data", str(small_celeba)])
    assert told.exit_code != 0
    assert "expected a classifier, got a" in told.output
