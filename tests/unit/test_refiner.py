"""The refiner, the faults it is trained against, and its training: on synthetic faces, Lite0 with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anonymousnet import weights
from anonymousnet.align.region import FACE, HEAD
from anonymousnet.config import Config
from anonymousnet.data.celeba import LARGE
from anonymousnet.errors import StorageError
from anonymousnet.nets.lite0 import Lite0
from anonymousnet.nets.refiner import PatchDiscriminator, Refiner, RefinerConfig, enlarged
from anonymousnet.training import refiner
from anonymousnet.training.data import FaceTable
from anonymousnet.training.degradation import degraded
from anonymousnet.training.loop import train
from anonymousnet.training.refiner import RefinerTask
from anonymousnet.training.tasks import TASKS, training_tables

SHAPE = RefinerConfig(px=64, width=8, blocks=1)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lite0 with random weights: its package is not needed."""
    monkeypatch.setattr(refiner, "load_lite0", Lite0)


def test_it_starts_as_the_bicubic_enlargement() -> None:
    small, context, region = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 64, 64), FACE.masks(64)[0].expand(2, 1, 64, 64)
    assert torch.equal(Refiner(SHAPE)(small, context, region), enlarged(small))


def test_no_pixel_of_the_region_reaches_it() -> None:
    net = Refiner(SHAPE)
    torch.nn.init.normal_(net.out.weight)
    small, region = torch.rand(2, 3, 16, 16), FACE.masks(64)[0].expand(2, 1, 64, 64)
    context = torch.rand(2, 3, 64, 64)
    swapped = torch.where(region > 0, torch.rand(2, 3, 64, 64), context)
    assert torch.equal(net(small, context, region), net(small, swapped, region))
    assert not torch.equal(net(small, context, region), net(small, 1 - context, region))


def test_patches_are_judged_one_by_one() -> None:
    assert PatchDiscriminator(8)(torch.rand(2, 3, 64, 64)).shape == (2, 1, 8, 8)


def test_spoilt_faces_stay_near_their_faces() -> None:
    faces = torch.full((16, 3, 64, 64), 0.3)
    spoilt = degraded(faces, (FACE, HEAD), torch.arange(16) % 2, 4)
    assert spoilt.shape == (16, 3, 16, 16)
    off = (spoilt - 0.3).abs()
    assert 0.01 < off.mean() < 0.1
    assert off.amax((1, 2, 3)).min() > 0


def settings(steps: int) -> Config:
    fixed = [f"train.steps={steps}", "train.batch=4", "train.checkpoint_every=2", "precision=fp32", "device=cpu"]
    return Config.load(None, [*fixed, "train.px=64", "train.width=8"])


@pytest.mark.usefixtures("untrained")
def test_a_killed_run_goes_on_to_the_same_losses(
    synthetic: FaceTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anonymousnet.training.loop as loop

    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr(refiner, "ADVERSARIAL_FROM", 1)
    whole = train(RefinerTask, settings(4), synthetic, synthetic, tmp_path / "whole", quiet=True)
    step_of = RefinerTask.train_step

    def dies(self: RefinerTask, batch: Any, engines: Any, step: int) -> dict[str, Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return step_of(self, batch, engines, step)

    with monkeypatch.context() as patch:
        patch.setattr(RefinerTask, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(RefinerTask, settings(4), synthetic, synthetic, tmp_path / "killed", quiet=True)
    again = train(RefinerTask, settings(4), synthetic, synthetic, tmp_path / "killed", quiet=True)
    assert again.losses == whole.losses
    lines = [(tmp_path / run / "losses.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    assert [json.loads(x) for x in lines[0]] == [json.loads(x) for x in lines[1]]
    assert weights.build(weights.read(str(whole.weights)), Refiner).config.px == 64
    assert list((tmp_path / "whole" / "samples").glob("*.png"))
    assert TASKS["refiner"] is RefinerTask


def test_faces_of_photos_as_taken_are_split_by_person(small_celeba: Path) -> None:
    aligned, _ = training_tables(small_celeba, 64, 0, large=True)
    assert aligned.faces_N3HW.shape[2:] == (64, 64)
    with pytest.raises(StorageError, match=LARGE):
        training_tables(small_celeba, 192, 0, large=True)
    (small_celeba / LARGE).mkdir()
    for i in range(12):
        shade = np.full((256, 256, 3), 20 * i, np.uint8)
        Image.fromarray(shade).save(small_celeba / LARGE / f"{i + 1:06}.webp", lossless=True)
    data, held_out = training_tables(small_celeba, 192, 0, large=True)
    assert len(data) + len(held_out) == 12
    assert len(held_out) >= 1
    shades = {int(face.mean()) for table in (data, held_out) for face in table.faces_N3HW}
    assert shades == {20 * i for i in range(12)}
