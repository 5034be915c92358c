"""Two promises of a release: under every policy that claims it, the hidden pixels make no difference; and nothing that
stands in a release tells the true attributes better than the released ones do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.records import evidence

from anonymousnet import Anonymizer, weights
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.synthetic import render_face
from anonymousnet.doctor import guarantee
from anonymousnet.errors import ConfigError
from anonymousnet.guarantee import examine
from anonymousnet.nets.classifier import Classifier
from anonymousnet.pipelines.bulk import anonymize

POLICIES = [
    [],
    ["obfuscate.epsilon=1", "obfuscate.split=sensitivity"],
    ["obfuscate.epsilon=null", "obfuscate.gamma=0.5", "obfuscate.t=0.1", "obfuscate.follow=[]"],
    ["obfuscate.protect=[Smiling,Male,Young]", "perturb.epsilon=0"],
    ["precision=fp32", "release.format=png"],
]
"""Settings at strength 1 that claim the guarantee; 40 pairs each, 200 in all."""


@pytest.fixture(scope="module")
def faces() -> list[NDArray[np.uint8]]:
    return [render_face(seed, 200).image for seed in range(42)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_200_pairs_give_identical_bytes(
    policy: list[str], faces: list[NDArray[np.uint8]], small_weights: list[str]
) -> None:
    anonymizer = Anonymizer.load(Config.load(None, [*small_weights, *policy]))
    result = examine(anonymizer, faces, 40, "synthetic")
    assert result.faces == 40
    assert result.identical_other == result.identical_noise == 40, result.lines()
    public = anonymizer(faces[0]).faces[0].evidence.public
    assert "epsilon-DP for the pixels" in public.covers


@pytest.mark.parametrize("strength", [0.8, 0.6, 0.4, 0.2, 0.0])
def test_policies_without_the_guarantee_are_refused_its_words(
    strength: float, faces: list[NDArray[np.uint8]], small_weights: list[str], tmp_path: Path
) -> None:
    config = Config.load(None, [*small_weights, f"synthesize.strength={strength}"])
    Image.fromarray(faces[0]).save(tmp_path / "one.png")
    anonymize(tmp_path / "one.png", tmp_path / "out", config)
    for path in filter(Path.is_file, (tmp_path / "out").rglob("*")):
        assert b"epsilon-DP for the pixels" not in path.read_bytes(), path.name
    with pytest.raises(ConfigError, match="synthesize.strength"):
        guarantee(config)


def _features(dst: Path, printed: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(everything but pixels and released attributes, released attributes) of each photo in a release."""
    table = pq.read_table(dst / "release.parquet").to_pandas().sort_values("photo")
    page = (dst / "report.html").read_text()
    rows = []
    for name, row in zip(table.photo, table.to_dict("records"), strict=True):
        data = (dst / name).read_bytes()
        with Image.open(dst / name) as image:
            header = [len(image.info), len(image.getexif()), *image.size]
        numbers = [value for value in row.values() if isinstance(value, float | int) and not isinstance(value, bool)]
        words = [len(value) for key, value in row.items() if isinstance(value, str) and key != "sha256"]
        digest = [int(row["sha256"][i : i + 4], 16) for i in range(0, 32, 4)]
        mentions = [page.count(name), printed.count(name), len(re.findall(re.escape(name), page + printed))]
        rows.append(
            [len(data), data[:20].count(0), (dst / name).stat().st_mode, *header, *numbers, *words, *digest, *mentions]
        )
    return np.array(rows, float), table[list(ATTRIBUTES)].to_numpy(float)


def _accuracy(features: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Mean accuracy of ridge regression on each attribute, five-fold."""
    spread = features.std(0)
    x = (features - features.mean(0))[:, spread > 0] / spread[spread > 0]
    x = np.hstack([x, np.ones((len(x), 1))])
    right = []
    for fold in range(5):
        test = np.arange(len(x)) % 5 == fold
        a, b = x[~test], truth[~test] * 2.0 - 1
        fitted = np.linalg.solve(a.T @ a + 10 * np.eye(x.shape[1]), a.T @ b)
        right.append(((x[test] @ fitted > 0) == truth[test]).mean())
    return float(np.mean(right))


def _balanced_classifier(small_weights: list[str], photos: list[Path], folder: Path) -> str:
    """The small random classifier, shifted so that each attribute is true of half of the photos: its setting."""
    config = Config.load(None, small_weights)
    anonymizer = Anonymizer.load(config)
    net = weights.build(weights.read(config.predict.weights), Classifier)
    sources = [anonymizer.prepare(photo).batch.source_B3HW for photo in photos]
    logits = net(torch.cat([source for source in sources if source is not None]))
    net.head.bias -= logits.median(0).values
    weights.write(folder, "classifier", net.config.model_dump(), net.state_dict(), {})
    return f"predict.weights={folder}"


def test_nothing_in_a_release_tells_the_truth_better_than_the_released_attributes(
    small_weights: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(120):
        Image.fromarray(render_face(seed, 200).image).save(tmp_path / "in" / f"{seed:03}.png")
    words = [sys.executable, "-m", "anonymousnet.cluster.cli", "anonymize", str(tmp_path / "in"), str(tmp_path / "out")]
    # gamma 0.6: released attributes tell much, so that a leak beside them would have to tell more.
    balanced = _balanced_classifier(small_weights, sorted((tmp_path / "in").iterdir())[:60], tmp_path / "classifier")
    policy = [*small_weights, balanced, "obfuscate.epsilon=null", "obfuscate.gamma=0.6"]
    sets = [word for setting in policy for word in ("--set", setting)]
    done = subprocess.run([*words, *sets], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = evidence(tmp_path / "out-private")
    rows.sort(key=lambda row: row["photo"])
    truth = np.array([[row["probabilities"][name] > 0.5 for name in ATTRIBUTES] for row in rows])
    varied = (truth.mean(0) > 0.1) & (truth.mean(0) < 0.9)
    assert varied.sum() >= 20
    beside, released = _features(tmp_path / "out", done.stdout + done.stderr)
    alone = _accuracy(released, truth[:, varied])
    together = _accuracy(np.hstack([released, beside]), truth[:, varied])
    assert together <= alone + 0.03
    leaky = _accuracy(np.hstack([released, truth[:, varied]]), truth[:, varied])
    assert leaky > alone + 0.1, "a leak would have been seen"
