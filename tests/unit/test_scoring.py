"""What a model card says of subgroups: every rate with an interval over people, nobody's threshold his own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from anonymousnet import weights
from anonymousnet.cluster.cli import main
from anonymousnet.data.attributes import INDEX, subgroups
from anonymousnet.data.celeba import CelebA
from anonymousnet.metrics.attributes import mean_intervals
from anonymousnet.nets.classifier import Classifier, ClassifierConfig
from anonymousnet.nets.embedder import Embedder, EmbedderConfig
from anonymousnet.training.embedder import verification_by_subgroup


def test_subgroups_are_complements_and_empty_ones_are_left_out() -> None:
    truth = np.zeros((6, 40), bool)
    truth[:2, INDEX["Male"]] = True
    found = subgroups(truth)
    assert list(found) == ["Male: yes", "Male: no", "Young: no", "Pale Skin: no"]
    assert (found["Male: yes"] ^ found["Male: no"]).all()


def test_the_interval_of_a_mean_over_attributes_covers_the_truth() -> None:
    rng, people, inside = np.random.default_rng(0), np.repeat(np.arange(100), 5), 0
    for _ in range(60):
        truth = rng.random((500, 40)) < 0.3
        slips = rng.uniform(0.1, 0.5, 100)[people, None]  # answers of one person stand or fall together
        low, high = mean_intervals(truth ^ (rng.random(truth.shape) < slips), truth, people)["accuracy"]
        inside += low <= 0.7 <= high
    assert inside >= 53


def test_photos_of_one_person_count_as_one() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((60, 40)) < 0.3
    said = truth ^ (rng.random(truth.shape) < rng.beta(1, 4, (60, 1)))

    def width(people: np.ndarray, times: int) -> float:
        low, high = mean_intervals(np.repeat(said, times, 0), np.repeat(truth, times, 0), people)["balanced"]
        return high - low

    once, often = width(np.arange(60), 1), width(np.repeat(np.arange(60), 9), 9)
    assert often == pytest.approx(once, rel=1e-6)
    assert width(np.arange(540), 9) < once / 2


def test_an_attribute_that_a_subgroup_lacks_is_left_out_of_its_mean() -> None:
    truth = np.zeros((50, 40), bool)
    truth[:, :2] = np.arange(50)[:, None] % 2 == 0
    low, high = mean_intervals(truth, truth, np.arange(50))["balanced"]
    assert low == high == 1


def test_a_subgroup_is_judged_at_everyones_threshold() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 5)
    noise = np.where(who < 30, 0.5, 4.0)[:, None]
    vectors = rng.normal(size=(60, 64))[who] + noise * rng.normal(size=(300, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    groups = {"all": np.ones(300, bool), "clear": who < 30, "unclear": who >= 30}
    rows = {str(row["subgroup"]): row for row in verification_by_subgroup(vectors, who, groups)}
    assert rows["all"]["false_accepts"] == pytest.approx(0.01, abs=1e-3)
    assert rows["clear"]["tar"] > 0.95 > 0.3 > rows["unclear"]["tar"]  # type: ignore[operator]
    assert all(row["tar_low"] <= row["tar"] <= row["tar_high"] for row in rows.values())  # type: ignore[operator]
    assert rows["clear"]["pairs"] == 30 * 10
    assert verification_by_subgroup(vectors[:20], who[:20], {"all": np.ones(20, bool)}) == []


def test_scores_come_with_a_row_for_each_subgroup(small_celeba: Path, tmp_path: Path) -> None:
    shape = ClassifierConfig(px=32, width=4)
    torch.manual_seed(0)
    weights.write(tmp_path / "mine", "classifier", shape.model_dump(), Classifier(shape).state_dict(), {})
    command = ["weights", "score", str(tmp_path / "mine"), "--data", str(small_celeba), "--partition", "train"]
    told = CliRunner().invoke(main, [*command, "--json"])
    assert told.exit_code == 0, told.output
    answer = json.loads(told.output)
    part = CelebA.open(small_celeba).part("train")
    rows = {row["subgroup"]: row for row in answer["subgroups"]}
    assert set(rows) == {"all", *subgroups(part.attributes)}
    assert rows["all"]["faces"] == len(part)
    assert sum(row["faces"] for name, row in rows.items() if name.startswith("Male")) == len(part)
    assert rows["all"]["accuracy"] == pytest.approx(answer["means"]["accuracy"])
    assert rows["all"]["balanced"] == pytest.approx(answer["means"]["balanced"])
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows.values())
    output = CliRunner().invoke(main, command).output
    assert all(name in output for name in rows)


def test_too_few_faces_for_a_threshold_leave_the_subgroups_out(small_celeba: Path, tmp_path: Path) -> None:
    shape = EmbedderConfig(px=32, width=4, dimensions=8)
    weights.write(tmp_path / "mine", "embedder", shape.model_dump(), Embedder(shape).state_dict(), {})
    command = [
        "weights",
        "score",
        str(tmp_path / "mine"),
        "--data",
        str(small_celeba),
        "--partition",
        "train",
        "--json",
    ]
    told = CliRunner().invoke(main, command)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["subgroups"] == []
