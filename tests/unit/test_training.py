"""Training: the order of faces, exact resume, tasks that learn, checkpoints that are complete or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from anonymousnet import draw, weights
from anonymousnet.config import Config
from anonymousnet.errors import CheckpointError, ConfigError, DataError, WeightsError
from anonymousnet.parts import Parts
from anonymousnet.training.data import FaceTable, rows_of_step
from anonymousnet.training.loop import take_step, train
from anonymousnet.training.tasks import TASKS, task_named, training_tables

SMALL = {
    "attributes": ["train.px=64", "train.width=8"],
    "embedder": ["train.px=64", "train.width=8"],
    "generator": ["train.px=64", "train.width=8"],
    "landmarks": ["train.px=64", "train.width=4"],
    "translator": ["train.px=64", "train.width=8"],
}


def settings(task: str, steps: int, *more: str) -> Config:
    fixed = [f"train.steps={steps}", "train.batch=8", "train.checkpoint_every=3", "precision=fp32", "device=cpu"]
    return Config.load(None, [*fixed, *SMALL[task], *more])


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


def test_every_epoch_shows_every_face_once() -> None:
    seen = np.concatenate([rows_of_step(0, step, 8, 40) for step in range(10)])
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40))
    assert list(seen[:40]) != list(seen[40:])


def test_the_order_depends_on_seed_and_step_alone() -> None:
    assert (rows_of_step(3, 7, 16, 40) == rows_of_step(3, 7, 16, 40)).all()
    assert (rows_of_step(3, 7, 16, 40) != rows_of_step(4, 7, 16, 40)).any()


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert sorted(rows_of_step(0, 0, 10, 5)) == sorted([*range(5), *range(5)])


@pytest.mark.parametrize("task", SMALL)
def test_a_killed_run_goes_on_to_the_same_losses(task: str, synthetic: FaceTable, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import anonymousnet.training.loop as loop

    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    config = settings(task, 7)
    whole = train(TASKS[task], config, synthetic, synthetic, tmp_path / "whole", quiet=True)

    class Killed(Exception):
        pass

    step_of = TASKS[task].train_step

    def dies(self, batch, engines, step):  # type: ignore[no-untyped-def]
        if step == 5:
            raise Killed
        return step_of(self, batch, engines, step)

    with monkeypatch.context() as patch:
        patch.setattr(TASKS[task], "train_step", dies)
        with pytest.raises(Killed):
            train(TASKS[task], config, synthetic, synthetic, tmp_path / "killed", quiet=True)
    again = train(TASKS[task], config, synthetic, synthetic, tmp_path / "killed", quiet=True)
    assert again.losses == whole.losses
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_attributes_are_learned(synthetic: FaceTable, tmp_path: Path) -> None:
    config = settings("attributes", 150, "train.lr=0.004", "train.ema=0.9")
    result = train(TASKS["attributes"], config, synthetic, synthetic, tmp_path, quiet=True)
    assert result.scores["accuracy"] > result.scores["majority"] + 0.02
    assert result.scores["balanced"] > 0.55


def test_a_checkpoint_of_other_settings_is_refused(synthetic: FaceTable, tmp_path: Path) -> None:
    train(TASKS["attributes"], settings("attributes", 3), synthetic, synthetic, tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match="made with seed=0, this run has seed=1"):
        train(TASKS["attributes"], settings("attributes", 3, "seed=1"), synthetic, synthetic, tmp_path, quiet=True)


def test_a_damaged_checkpoint_is_refused(synthetic: FaceTable, tmp_path: Path) -> None:
    train(TASKS["attributes"], settings("attributes", 3), synthetic, synthetic, tmp_path, quiet=True)
    file = next(tmp_path.glob("step-*.ckpt")) / "classifier.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="does not read"):
        train(TASKS["attributes"], settings("attributes", 3), synthetic, synthetic, tmp_path, quiet=True)


def test_a_half_written_checkpoint_is_not_seen(synthetic: FaceTable, tmp_path: Path) -> None:
    config = settings("attributes", 4)
    whole = train(TASKS["attributes"], config, synthetic, synthetic, tmp_path / "a", quiet=True)
    last = next((tmp_path / "a").glob("step-*.ckpt"))
    (tmp_path / "b").mkdir()
    shutil.copytree(last, tmp_path / "b" / "step-00000003.partial")
    assert train(TASKS["attributes"], config, synthetic, synthetic, tmp_path / "b", quiet=True).losses == whole.losses


def test_training_leaves_curves_pictures_and_weights(synthetic: FaceTable, tmp_path: Path) -> None:
    result = train(TASKS["generator"], settings("generator", 3), synthetic, synthetic, tmp_path, quiet=True)
    assert list((tmp_path / "tensorboard").iterdir())
    assert list((tmp_path / "samples").glob("*.png"))
    assert (result.weights / "model.safetensors").exists()


def test_a_generator_of_heads_paints_heads_alone(synthetic: FaceTable, tmp_path: Path) -> None:
    config = settings("generator", 2, "train.region=head")
    result = train(TASKS["generator"], config, synthetic, synthetic, tmp_path, quiet=True)
    assert weights.read(str(result.weights)).config["region"] == "head"
    heads = [f"synthesize.weights={result.weights}", "synthesize.region=head"]
    assert Parts(Config.load(None, heads)).face_px == 64
    with pytest.raises(WeightsError, match="paint the head, synthesize.region is face; set synthesize.region=head"):
        Parts(Config.load(None, heads[:1])).face_px  # noqa: B018


def test_a_generator_that_starts_from_weights_waits_for_its_critic(
    synthetic: FaceTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anonymousnet.training.gan as gan

    def run(out: str, steps: int, *more: str) -> Mapping[str, torch.Tensor]:
        config = settings("generator", steps, *more)
        result = train(TASKS["generator"], config, synthetic, synthetic, tmp_path / out, quiet=True)
        return weights.read(str(result.weights)).tensors

    start = run("start", 1)
    monkeypatch.setattr(gan, "CRITIC_FIRST", 2)
    waited = run("waited", 2, f"train.start={tmp_path / 'start' / 'weights'}")
    assert all(torch.equal(start[name], waited[name]) for name in start)
    learned = run("learned", 4, f"train.start={tmp_path / 'start' / 'weights'}")
    assert not torch.equal(start["stem.0.weight"], learned["stem.0.weight"])
    # With its critic, it learns from the first step.
    goes_on = run("goes_on", 1, f"train.start={tmp_path / 'learned' / 'start'}")
    assert not torch.equal(learned["stem.0.weight"], goes_on["stem.0.weight"])


def test_the_generator_s_gradient_is_the_mean_of_its_workers_gradients(synthetic: FaceTable) -> None:
    class Watch:
        """An engine that keeps gradients and takes no step."""

        def __init__(self, module: torch.nn.Module) -> None:
            self.module, self.gradients = module, dict[str, torch.Tensor]()

        def set_lr(self, lr: float) -> None: ...

        def step(self, loss: torch.Tensor) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            found = self.module.named_parameters()
            self.gradients = {name: p.grad.double() for name, p in found if p.grad is not None}
            self.module.zero_grad(set_to_none=True)

    torch.manual_seed(0)
    config = settings("generator", 1, "train.batch=16").train.over(TASKS["generator"].defaults)
    task = TASKS["generator"](config, synthetic.contents)
    networks = task.networks()

    def gradients(rank: int, workers: int) -> dict[str, torch.Tensor]:
        watched = {name: Watch(module) for name, module in networks.items()}
        rows, cpu = rows_of_step(0, 0, 16, len(synthetic))[rank::workers], torch.device("cpu")
        with draw.share(rank, workers):
            take_step(task, watched, synthetic.batch(rows, cpu), 0, 0, (cpu, torch.float32))  # type: ignore[arg-type]
        return {f"{key}.{name}": g for key, w in watched.items() for name, g in w.gradients.items()}

    whole, first, second = gradients(0, 1), gradients(0, 2), gradients(1, 2)
    assert whole.keys() == first.keys() == second.keys()
    largest = max(float(g.abs().max()) for g in whole.values())
    for name, gradient in whole.items():
        mean = (first[name] + second[name]) / 2
        assert torch.allclose(mean, gradient, rtol=1e-4, atol=1e-5 * largest), name


def test_a_loss_that_is_no_number_stops_the_run(synthetic: FaceTable, tmp_path: Path) -> None:
    from anonymousnet.training.record import TrainingDiverged

    with pytest.raises(TrainingDiverged, match="lower train.lr"):
        train(
            TASKS["attributes"], settings("attributes", 30, "train.lr=1e30"), synthetic, synthetic, tmp_path, quiet=True
        )


def test_unknown_tasks_and_empty_data_are_refused(small_celeba: Path) -> None:
    with pytest.raises(ConfigError, match="no training task 'gan'"):
        task_named("gan")
    with pytest.raises(DataError, match="at least one face"):
        FaceTable(np.zeros((0, 3, 8, 8), np.uint8), np.zeros((0, 40), bool), np.zeros(0, np.int64))
    (small_celeba / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match="expected validation images"):
        training_tables(small_celeba, 32, 0)


def test_tables_from_celeba_s_layout(small_celeba: Path) -> None:
    data, held_out = training_tables(small_celeba, 32, 0)
    assert (len(data), len(held_out)) == (6, 3)
    assert set(data.identities_N) == set(range(data.contents.identities))
    assert data.batch(np.arange(2), torch.device("cpu")).faces_B3HW.shape == (2, 3, 32, 32)


def test_points_move_with_their_face() -> None:
    from anonymousnet.training.landmarks import MIRRORED, mirrored, moved

    assert [MIRRORED[i] for i in MIRRORED] == list(range(68))
    dots = torch.full((4, 3, 64, 64), -1.0)
    points = torch.randint(24, 40, (4, 68, 2)).float() + 0.5
    for face, own in zip(dots, points, strict=True):
        face[:, own[0, 1].long(), own[0, 0].long()] = 1
    faces, there = moved(dots, points, 20, 0.1, 0.05)
    for face, own in zip(faces, there, strict=True):
        brightest = int(face[0].argmax())
        assert abs(brightest % 64 + 0.5 - float(own[0, 0])) < 1
        assert abs(brightest // 64 + 0.5 - float(own[0, 1])) < 1
    faces, there = mirrored(dots, points)
    for face, own in zip(faces, there, strict=True):
        x, y = next((float(p[0]), float(p[1])) for p in own if face[0, int(p[1]), int(p[0])] == 1)
        assert (x % 1, y % 1) == (0.5, 0.5)
