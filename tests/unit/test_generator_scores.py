"""What a generator's card says: planted leaks and people are found, and nothing where nothing was planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from anonymousnet.cluster.cli import main
from anonymousnet.data.celeba import CelebA
from anonymousnet.errors import DataError
from anonymousnet.metrics.skin import kinds, skin
from anonymousnet.training import generator_scores
from anonymousnet.training.generator_scores import Releases, identity_rows, two_of_each

N = 200
RNG = np.random.default_rng(0)


def faces(numbers_N: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pictures that say a number below 256 in two grey blocks, as JPEG leaves them."""
    halves = np.stack([numbers_N // 16, numbers_N % 16], 1) * 16 + 8
    return np.broadcast_to(halves.repeat(8, 1)[:, None, None, :], (len(halves), 3, 8, 16)).astype(np.uint8)


class Judge:
    """Sees whoever the picture's number says."""

    name = "judge"
    people = RNG.normal(size=(256, 64))

    def embed(self, faces_N3HW: NDArray[np.uint8]) -> NDArray[np.float32]:
        halves = faces_N3HW.astype(int)[:, 0].reshape(-1, 8, 2, 8).mean((1, 3)) // 16
        found = self.people[(halves[:, 0] * 16 + halves[:, 1]).astype(int)]
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def rows(**ways: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    people = np.repeat(np.arange(N // 2), 2)
    pictures = {way: faces(numbers) for way, numbers in ways.items()}
    found = identity_rows(Judge(), Releases(faces(people), people, said_N40=np.zeros((N, 40), bool), **pictures))
    return {str(row["measure"]).removeprefix("judge: "): row for row in found}  # type: ignore[misc]


def test_a_code_that_is_a_person_and_nobody_of_the_photo() -> None:
    others = np.repeat(np.arange(100, 200), 2)
    found = rows(plain=others, again=np.roll(others, 2), recoded=np.roll(others, 4), perturbed=np.roll(others, 6))
    assert found["own source, FAR 0.001"]["value"] < 0.02
    assert found["other photo, FAR 0.001"]["value"] < 0.02
    assert found["named, own source there"]["value"] < 0.06
    assert found["one code on two photos"]["value"] == 1
    assert found["two releases apart"]["value"] > 0.95
    assert found["two codes, one draw apart"]["value"] > 0.95
    assert found["one code, one perturbed"]["value"] < 0.1  # the perturbation hides that it is one person
    assert found["fall when one is perturbed"]["value"] == pytest.approx(1 - found["one code, one perturbed"]["value"])
    assert found["that fall after JPEG 75"]["value"] == found["fall when one is perturbed"]["value"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in found.values())


def test_a_face_that_shows_through_is_found() -> None:
    same = np.repeat(np.arange(100), 2)
    found = rows(plain=same, again=same, recoded=same, perturbed=same)
    shown = ("own source, FAR 0.001", "other photo, FAR 0.001", "named, own source there")
    assert [found[measure]["value"] for measure in shown] == [1, 1, 1]
    assert found["two releases apart"]["value"] == found["two codes, one draw apart"]["value"] == 0
    assert found["one code on two photos"]["beside"] == pytest.approx(0.01, abs=0.01)  # strangers


def test_two_faces_of_each_person_lie_side_by_side() -> None:
    assert two_of_each(np.array([7, 5, 7, 9, 5, 7])).tolist() == [1, 4, 0, 2]
    with pytest.raises(DataError, match="two photos"):
        two_of_each(np.array([1, 2, 3]))


def test_lightness_is_cies_and_every_skin_is_of_one_kind() -> None:
    greys = np.stack([np.full((3, 32, 32), level, np.uint8) for level in (0, 119, 255)])
    assert skin(greys)[:, 0] == pytest.approx([0, 50, 100], abs=0.3)
    colours = np.zeros((4, 3, 32, 32), np.uint8)  # the last is a dark face in blue light
    colours[:] = np.array([(255, 224, 196), (198, 134, 66), (60, 32, 20), (20, 25, 60)])[:, :, None, None]
    found = kinds(skin(colours))
    assert list(found) == ["skin: very light", "skin: tan", "skin: dark"]
    assert np.stack(list(found.values())).argmax(0).tolist() == [0, 1, 2, 2]
    assert (np.stack(list(found.values())).sum(0) == 1).all()


def test_the_command_scores_a_generator(
    small_celeba: Path, small_weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = small_celeba / "list_eval_partition.txt"
    lists.write_text(lists.read_text().replace(" 1\n", " 0\n").replace(" 2\n", " 0\n"))
    monkeypatch.setattr(generator_scores, "STRICT", 0.9)  # two faces of four people give no better threshold
    monkeypatch.setattr(generator_scores, "LOOSE", 0.9)
    name = next(s.removeprefix("synthesize.weights=") for s in small_weights if s.startswith("synthesize.weights="))
    command = ["weights", "score", name, "--data", str(small_celeba), "--partition", "train"]
    settings = [part for setting in small_weights for part in ("--set", setting)]
    told = CliRunner().invoke(main, [*command, *settings, "--json"])
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout)
    part = CelebA.open(small_celeba).part("train")
    assert answer["faces"] == len(two_of_each(part.identities))
    measures = {row["measure"] for row in answer["rows"]}
    assert {
        "ours: one code on two photos",
        "ours: fall when one is perturbed",
        "detected",
        "read back",
        "KID",
        "SSIM at 10/255, region",
    } <= measures
    groups = {row["subgroup"]: row for row in answer["subgroups"]}
    assert groups["all"]["faces"] == answer["faces"]
    assert any(name.startswith("skin: ") for name in groups)
    again = CliRunner().invoke(main, [*command, *settings])
    assert all(measure in again.output for measure in measures)
