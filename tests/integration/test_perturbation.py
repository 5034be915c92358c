"""The perturbation's actor: the local solver's v, whoever dies; it answers while it works, and publishes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.config import Config
from anonymousnet.errors import CheckpointError, ClusterError, ConfigError
from anonymousnet.pipelines import perturbation as pipeline
from anonymousnet.pipelines.session import ray_session
from anonymousnet.training import perturbation as local
from anonymousnet.training.data import FaceTable
from anonymousnet.training.targets import AttributeTarget, ClassTarget, Target
from anonymousnet.training.universal import Plan, Universal, solve
from anonymousnet.weights.versions import latest_version

PLAN = Plan(10 / 255, epochs=2, batch=10, robust=True, tintless=True)
FACES = torch.rand(44, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module", autouse=True)
def _session() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    with ray_session():
        yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def targets(pause: float = 0.0) -> list[Target]:
    """Two small random networks, in double precision: signs of a split batch's gradient then are those of the whole."""
    torch.manual_seed(0)
    answers = [nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(784, n)).double().eval()
               for n in (40, 4)]  # fmt: skip

    def slow(net: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(faces: Tensor) -> Tensor:
            time.sleep(pause if len(faces) > 1 else 0)  # deepfool asks for one face at a time, often
            out: Tensor = net.requires_grad_(False)(faces.double())
            return out

        return run

    return [AttributeTarget(slow(answers[0]), 32), ClassTarget(slow(answers[1]), top=3)]


@pytest.fixture(scope="module")
def crew() -> list[Any]:
    """Two workers for all tests that do not kill them: a process costs five seconds."""
    return pipeline.start_workers(lambda: (targets(0.1), None), 2)


def started(out: Path, crew: list[Any], plan: Plan = PLAN) -> pipeline.Running:
    return pipeline.start(plan, crew, [ray.put(face) for face in FACES.numpy()], out, local.run_of(plan, ["both"], 44))


@pytest.fixture(scope="module")
def expected() -> Universal:
    """The local solver's."""
    return solve(FACES, targets(), PLAN)


def finished(running: pipeline.Running) -> Universal:
    try:
        return running.result()
    finally:
        running.stop()


def wait_for(running: pipeline.Running, batches: int) -> dict[str, Any]:
    """Progress, once that many batches are done."""
    for _ in range(1200):
        progress: dict[str, Any] = ray.get(running.holder.progress.remote())
        if progress["batches"] >= batches:
            return progress
        time.sleep(0.05)
    raise AssertionError(f"{batches} batches were not done in time: {progress}")


def test_one_worker_gives_the_local_v_to_the_bit(tmp_path: Path, crew: list[Any], expected: Universal) -> None:
    found = finished(started(tmp_path, crew[:1]))
    assert torch.equal(found.v, expected.v)
    assert found.history == expected.history
    assert float(found.v.abs().mean()) > 0.2


def test_two_workers_share_each_batch_and_agree(tmp_path: Path, crew: list[Any], expected: Universal) -> None:
    found = finished(started(tmp_path, crew))
    assert torch.allclose(found.v, expected.v, atol=1e-5)
    assert found.history == expected.history


def test_deepfool_runs_on_a_worker(tmp_path: Path, crew: list[Any]) -> None:
    plan = Plan(2 / 255, "deepfool", 1, batch=10)
    assert torch.equal(finished(started(tmp_path, crew, plan)).v, solve(FACES, targets(), plan).v)


def test_killed_in_the_middle_the_holder_comes_back_and_ends_with_the_same_v(
    tmp_path: Path, crew: list[Any], expected: Universal
) -> None:
    running = started(tmp_path, crew[:1])
    before = wait_for(running, 7)
    assert before["batches"] < before["of"] == 10
    os.kill(before["pid"], signal.SIGKILL)
    after = wait_for(running, 7)
    assert after["pid"] != before["pid"]
    assert after["batches"] < 10, "it was to be killed before the end"
    found = finished(running)
    assert torch.equal(found.v, expected.v)
    assert found.history == expected.history


def test_a_killed_workers_part_is_computed_again(tmp_path: Path, crew: list[Any], expected: Universal) -> None:
    running = started(tmp_path, crew)
    wait_for(running, 2)
    os.kill(ray.get(crew[1].pid.remote()), signal.SIGKILL)
    found = finished(running)
    assert torch.allclose(found.v, expected.v, atol=1e-5)


def test_a_worker_that_dies_again_and_again_ends_the_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "RESTARTS", 1)
    mortal = pipeline.start_workers(lambda: (targets(0.1), None), 1)
    running = started(tmp_path, mortal)
    wait_for(running, 1)
    for _ in range(2):
        os.kill(ray.get(mortal[0].pid.remote()), signal.SIGKILL)
    with pytest.raises(ClusterError, match="died more than") as raised:
        finished(running)
    assert "\n" not in str(raised.value)
    kept = local.read_state(tmp_path, local.run_of(PLAN, ["both"], 44))
    assert kept is not None
    assert kept.pending is not None


def test_it_answers_while_it_works_and_there_is_one_of_its_name(tmp_path: Path, crew: list[Any]) -> None:
    running = started(tmp_path, crew)
    try:
        wait_for(running, 1)
        named = ray.get_actor(pipeline.NAME, namespace=pipeline.NAMESPACE)
        answers = [ray.get(named.progress.remote()) for _ in range(5)]
        assert not ray.wait([running.ended], timeout=0)[0], "it was to answer before the end"
        assert all(answer["of"] == 10 and 1 <= answer["batches"] < 10 for answer in answers)
        with pytest.raises(ClusterError, match="already computing a perturbation"):
            pipeline.start(PLAN, crew, [], tmp_path / "other", {})
        assert len(list(running.batches())) == 10
    finally:
        running.stop()


def test_every_epoch_is_a_version_that_a_reader_picks_up(tmp_path: Path, crew: list[Any]) -> None:
    assert latest_version(tmp_path) is None
    running = started(tmp_path, crew[:1])
    wait_for(running, 6)
    first = latest_version(tmp_path)
    found = finished(running)
    last = latest_version(tmp_path)
    assert [path and path.name for path in (first, last)] == ["0001", "0002"]
    read = weights.read(str(last))
    assert torch.allclose(weights.tensor(read, "v"), found.v, atol=1e-3)
    assert read.notes["epochs"] == 2


def test_workers_that_never_come_up_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "START_S", 0.5)
    with pytest.raises(ClusterError, match="expected 1 workers of one CPU each"):
        pipeline.start_workers(lambda: (targets(), None), 1)


def test_a_workers_own_error_arrives_as_it_was_raised(tmp_path: Path) -> None:
    class Broken(ClassTarget):
        def margins(self, faces: Tensor, reference: Tensor) -> Tensor:
            raise ConfigError("no such network")

    def equip() -> tuple[Sequence[Target], None]:
        return [Broken(lambda faces: faces.flatten(1)[:, :8])], None

    crew = pipeline.start_workers(equip, 1)
    running = pipeline.start(PLAN, crew, [ray.put(FACES[0].numpy())], tmp_path, local.run_of(PLAN, ["x"], 1))
    with pytest.raises(ConfigError, match="no such network"):
        finished(running)


@pytest.fixture(scope="module")
def settings(small_weights: list[str]) -> Config:
    return Config.load(None, small_weights)


def test_the_command_with_workers_writes_what_the_command_alone_writes(
    tmp_path: Path, settings: Config, synthetic: FaceTable
) -> None:
    held_out, against, plan = (
        synthetic.take(torch.arange(48, 64).numpy()),
        ("attributes", "detector"),
        Plan(0.05, epochs=2),
    )
    alone = local.compute_perturbation(settings, synthetic, held_out, tmp_path / "a", against, plan, 40, list)
    ticks: list[int] = []

    def progress(batches: Any, total: int) -> Any:
        assert total == 4
        return (ticks.append(i) or i for i in batches)  # type: ignore[func-returns-value]

    farmed = pipeline.compute_perturbation(
        settings, synthetic, held_out, tmp_path / "b", against, plan, 40, 1, None, progress
    )
    assert weights.read(str(alone.weights)).sha256 == weights.read(str(farmed.weights)).sha256
    assert alone.curve == farmed.curve
    assert alone.robustness == farmed.robustness
    assert ticks == [0, 1, 2, 3]
    assert (tmp_path / "b" / "fooling.png").read_bytes().startswith(b"\x89PNG")
    assert latest_version(tmp_path / "b") == tmp_path / "b" / "versions" / "0002"
    with pytest.raises(CheckpointError, match="was made with faces=40, this run has faces=30"):
        local.compute_perturbation(settings, synthetic, held_out, tmp_path / "a", against, plan, 30, list)
