"""The command line as a user meets it: exit status, one-line errors, --json, a kill in the middle of training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from anonymousnet.cluster.cli import main

SMALL_TRAINING = [
    "--set", "train.px=32", "--set", "train.width=4", "--set", "train.batch=8", "--set", "train.checkpoint_every=5",
    "--set", "precision=fp32",
]  # fmt: skip


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


def sets(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture
def photos(tmp_path: Path, page: np.ndarray) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(page).save(tmp_path / "photos" / "page.jpg")
    (tmp_path / "photos" / "broken.jpg").write_text("x")
    return tmp_path / "photos"


def test_help_lists_the_commands() -> None:
    shown = run("--help").output
    assert all(word in shown for word in ("anonymize", "train", "doctor", "weights", "config", "demo", "perturbation"))


def test_anonymize_prints_one_json_object(photos: Path, tmp_path: Path, small_weights: list[str]) -> None:
    done = run("anonymize", photos, tmp_path / "out", "--json", *sets(small_weights))
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert answer["photos"] == 2
    assert (answer["released"], answer["quarantined"]) == (1, 1)
    assert {"faces", "photos_per_second", "epsilon", "t", "report"} <= set(answer)
    assert (tmp_path / "out" / "report.html").exists()


def test_strict_fails_when_a_photo_was_withheld(photos: Path, tmp_path: Path, small_weights: list[str]) -> None:
    assert run("anonymize", photos, tmp_path / "out", "--strict", *sets(small_weights)).exit_code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["anonymize", "/nowhere", "out"], "no such photo or folder"),
        (["config", "--set", "synthesise.strength=1"], "unknown setting 'synthesise'"),
        (["config", "--config", "/nowhere.yaml"], "cannot read config"),
        (["train", "gan"], "no training task 'gan'"),
        (["train", "attributes", "--data", "/nowhere"], "expected /nowhere/img_align_celeba"),
        (["weights", "verify", "/nowhere"], "no weights '/nowhere'"),
    ],
)
def test_users_mistakes_end_with_one_line_and_status_2(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_training_without_data_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANONYMOUSNET_CELEBA", raising=False)
    done = run("train", "attributes")
    assert done.exit_code == 2
    assert "--synthetic" in done.stderr


def test_config_is_yaml_with_its_meanings() -> None:
    assert "# How little of the source region the generator sees" in run("config").stdout


def test_train_on_celeba_s_layout_ends_with_weights_that_load(small_celeba: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("train", "attributes", "--data", small_celeba, "--out", out, "--json", "--set", "train.steps=3",
               *SMALL_TRAINING)  # fmt: skip
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["steps"] == 3
    assert run("weights", "verify", answer["weights"]).exit_code == 0


def test_a_run_killed_with_9_goes_on_to_the_same_last_loss(small_celeba: Path, tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "anonymousnet.cluster.cli", "train", "attributes", "--data", str(small_celeba),
                "--out", str(out), "--json", "--set", "train.steps=150", *SMALL_TRAINING]  # fmt: skip

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command(tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("step-*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    reached = sorted(p.name for p in (tmp_path / "killed").glob("step-*.ckpt"))
    assert reached
    assert not (tmp_path / "killed" / "weights").exists()
    answers = []
    for out in (tmp_path / "killed", tmp_path / "whole"):
        done = subprocess.run(command(out), env=environment, capture_output=True, text=True, check=True)
        answers.append(json.loads(done.stdout.strip().splitlines()[-1]))
    assert answers[0]["losses"] == answers[1]["losses"]
    assert answers[0]["scores"] == answers[1]["scores"]


def test_a_population_of_one_s_own_is_counted_and_used(
    small_celeba: Path, photos: Path, tmp_path: Path, small_weights: list[str]
) -> None:
    out, table = tmp_path / "people.json", small_celeba / "list_attr_celeba.txt"
    few = run("population", table, out)
    assert (few.exit_code, "expected at least 100 rows, got 14" in few.stderr) == (2, True)
    count, names, *rows = table.read_text().splitlines()
    table.write_text("\n".join([count, names, *rows * 10]))
    assert json.loads(run("population", table, out, "--json").stdout)["rows"] == 140
    done = run("anonymize", photos, tmp_path / "out", "--json", *sets([*small_weights, f"obfuscate.population={out}"]))
    assert json.loads(done.stdout)["released"] == 1
    missing = run("anonymize", photos, tmp_path / "x", *sets([*small_weights, "obfuscate.population=/nowhere"]))
    assert (missing.exit_code, len(missing.stderr.strip().splitlines())) == (2, 1)
    groups = tmp_path / "groups.yaml"
    groups.write_text("look: [Attractive, Male, Young]\nhead: [Bald, Wearing_Hat]\n")
    drawn = json.loads(run("population", table, out, "--groups", groups, "--json").stdout)["groups"]
    assert [group for group in drawn if len(group) > 1] == [["Attractive", "Male", "Young"], ["Bald", "Wearing_Hat"]]
    for wrong in ("look: Male", "- Male", "look: [Male, Moustache]", "a: [Male]\nb: [Male]", "{"):
        groups.write_text(wrong)
        refused = run("population", table, out, "--groups", groups)
        assert (refused.exit_code, len(refused.stderr.strip().splitlines())) == (2, 1)
