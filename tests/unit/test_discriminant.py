"""An embedder in closed form: the head is the discriminant it claims to be, and training begins where it ends."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from anonymousnet import weights
from anonymousnet.cluster.cli import main
from anonymousnet.config import TrainConfig
from anonymousnet.errors import DataError, WeightsError
from anonymousnet.nets.classifier import Classifier, ClassifierConfig
from anonymousnet.nets.dan import DANConfig, mean_shape
from anonymousnet.nets.embedder import Embedder, EmbedderConfig, pooled
from anonymousnet.training import discriminant as module
from anonymousnet.training.data import Contents
from anonymousnet.training.discriminant import discriminant, make_embedder
from anonymousnet.training.embedder import EmbedderTask, WithCentres, verification_scores


def people(n: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """40 features: 6 tell people apart, faintly; 10 others vary far more, within each person."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(n), each)
    features = rng.normal(size=(len(who), 40))
    features[:, :10] *= 8
    features[:, 10:16] = rng.normal(size=(n, 6))[who] + 0.3 * features[:, 10:16]
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(40, 40)))[0]
    return (features @ mixing).astype(np.float32), who


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_discriminant_finds_what_tells_people_apart_and_it_holds_for_others() -> None:
    features, labels = people(120, 5, 0)
    projection = discriminant([features], labels, 6)
    others, who = people(60, 5, 1)
    before = verification_scores(unit(others), who)["tar_at_far_0.01"]
    after = verification_scores(unit(others @ projection), who)["tar_at_far_0.01"]
    assert before < 0.1
    assert after > 0.6


def test_too_few_faces_are_refused() -> None:
    features, labels = people(2, 5, 0)
    with pytest.raises(DataError, match=r"expected at least 16 faces and features, got \(10, 40\)"):
        discriminant([features], labels, 16)


def test_the_head_is_the_discriminant_of_the_trunk_s_features() -> None:
    torch.manual_seed(0)
    net = WithCentres(EmbedderConfig(px=64, width=4, dimensions=8), 5).eval()
    faces = np.random.default_rng(0).integers(0, 256, (60, 3, 64, 64), dtype=np.uint8)
    who = np.arange(120) // 2 % 5
    with torch.inference_mode():
        features = np.concatenate(list(module._features(net, faces, iter)))
        module._set_head(net, features, who)
        answers = net(module._unit(faces, net)).clone()
    groups = np.split(features, np.cumsum(net.groups)[:-1], axis=1)
    projected = features[::2].astype(np.float32) @ discriminant(groups, who, 8)
    projected -= net.scale.running_mean.numpy()
    assert (answers.numpy() * unit(projected)).sum(1).min() > 0.98  # features are kept in half precision
    centres = F.normalize(net.centres.weight.detach())
    own = centres[who[::2]]
    everyone = centres @ answers.T
    assert (own * answers).sum(1).mean() > everyone.mean() + 0.2


def test_fine_features_are_read_where_the_landmarks_lie() -> None:
    """The landmarks are a linear function of what the trunk saw; a face that moves takes its features along."""
    torch.manual_seed(0)
    net = WithCentres(EmbedderConfig(px=64, width=4, dimensions=8), 5).eval()
    faces = np.random.default_rng(0).integers(0, 256, (60, 3, 64, 64), dtype=np.uint8)

    class Answers(torch.nn.Module):
        """A landmark network that sees the mean shape shifted by the face's mean brightness."""

        config = DANConfig(px=32)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [(mean_shape() + images.mean((1, 2, 3))[:, None, None]) * 32]

    with torch.inference_mode():
        (seen,) = module._answers(net, Answers(), faces, iter)  # type: ignore[arg-type]
        module._set_points(net, *seen)
        inputs = module._unit(faces, net)
        maps = net.trunk.maps(inputs)
        found = net.points(pooled(maps))
        expected = mean_shape() + inputs.mean((1, 2, 3))[:, None, None]
        assert (found - expected).abs().max() < 2e-3
        features = net.features(maps).split(net.groups, 1)
    x, y = (found[7, 30] * 16 - 0.5).round().int().tolist()  # in cells of the second resolution, 16 x 16
    near = maps[1][7, :, y - 1 : y + 2, x - 1 : x + 2].flatten(1)
    tip = features[2][7].view(-1, 68)[:, 30]
    assert ((tip >= near.amin(1) - 1e-3) & (tip <= near.amax(1) + 1e-3)).all()


def test_training_starts_where_it_ends(tmp_path: Path) -> None:
    net = WithCentres(EmbedderConfig(px=32, width=4), 5)
    weights.write(tmp_path / "start", module.START, net.config.model_dump(), net.state_dict(), {})
    config = TrainConfig(start=str(tmp_path / "start"), px=32, width=4)
    started = EmbedderTask(config, Contents(30, 5, False)).networks()["embedder"]
    for (name, tensor), expected in zip(started.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.allclose(tensor.float(), expected.half().float()), name
    EmbedderTask(config, Contents(30, 5, False)).export({"embedder": started}, tmp_path / "out", {})
    assert not [name for name in weights.read(str(tmp_path / "out")).tensors if "centres" in name]


def test_the_command_writes_an_embedder_and_what_training_starts_from(
    small_celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EmbedderConfig", functools.partial(EmbedderConfig, dimensions=4))
    shape = ClassifierConfig(px=32, width=4)
    torch.manual_seed(0)
    classifier = Classifier(shape)
    weights.write(tmp_path / "classifier", "classifier", shape.model_dump(), classifier.state_dict(), {})
    out = tmp_path / "out"
    words = ["weights", "discriminant", str(tmp_path / "classifier"), str(out), "--data", str(small_celeba), "--json"]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 0, told.output
    read = weights.read(str(out))
    assert json.loads(told.stdout)["sha256"] == read.sha256
    net = weights.build(read, Embedder)
    assert torch.allclose(net.trunk.stem[0].weight, classifier.trunk.stem[0].weight, atol=1e-3)
    assert torch.isfinite(net(torch.zeros(2, 3, 32, 32))).all()
    start = weights.read(str(out / "start"))
    assert set(start.tensors) == {*read.tensors, "centres.weight"}
    assert start.tensors["centres.weight"].shape == (json.loads(told.stdout)["people"], 4)


def test_few_faces_and_other_weights_are_explained(small_celeba: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        main, ["weights", "discriminant", "attributes", str(tmp_path / "out"), "--data", str(small_celeba)]
    )
    assert told.exit_code != 0
    assert "expected at least 128 faces and features, got (12, 19328)" in told.output
    with pytest.raises(WeightsError, match="expected a classifier"):
        make_embedder("embedder", tmp_path / "out", small_celeba, None)  # type: ignore[arg-type]
