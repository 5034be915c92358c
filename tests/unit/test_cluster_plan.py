"""The plan: computed from measured rates, its model checked, its extrapolations marked."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from anonymousnet.cluster import plan as planning
from anonymousnet.cluster import yardstick
from anonymousnet.cluster.cli import main
from anonymousnet.cluster.plan import Plan, check_deadline, efficiency, gpu_speedup, job_seconds, make_plan, rates
from anonymousnet.cluster.sizes import Size, fitted
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError


def made(photos: int, size: str, gpu: str = "l4", workers: int | None = None) -> Plan:
    machines = Size.parse(size, gpu)
    return make_plan(photos, machines, fitted(Config(), machines), workers=workers)


def test_rates_say_where_they_come_from() -> None:
    known = rates()
    for part in ("preprocess", "bulk", "train", "flops", "starts", "scaling", "yardstick"):
        assert known[part]["source"]
    for job in ("preprocess", "bulk"):
        assert known[job]["worker_s_per_photo"] > 0


def with_scaling(patched: pytest.MonkeyPatch, machines: dict[str, float]) -> None:
    found = {n: {"efficiency": share} for n, share in machines.items()}
    known = rates() | {"scaling": {"source": "a test", "machines": found}}
    patched.setattr(planning, "rates", lambda: known)


def test_efficiency_is_what_was_measured_and_goes_on_as_it_fell(monkeypatch: pytest.MonkeyPatch) -> None:
    with_scaling(monkeypatch, {"1": 1.0, "2": 0.96, "4": 0.81})
    assert [efficiency(n) for n in (1, 2, 4)] == [1.0, 0.96, 0.81]
    assert efficiency(16) == pytest.approx(0.9**4)


def test_where_the_scaling_was_measured_is_said() -> None:
    scaling = rates()["scaling"]
    assert {"1", "2"} <= set(scaling["machines"])
    assert any(scaling["source"] in line for line in made(100, "2x0").assumptions)


def test_twice_the_photos_take_twice_as_long_once_started() -> None:
    assert job_seconds(200, 2, 1, 10, 0, 1) - 10 == pytest.approx(2 * (job_seconds(100, 2, 1, 10, 0, 1) - 10))
    small, large = made(202_599, "1x0"), made(2_025_990, "1x0")
    for one, ten in zip(small.phases, large.phases, strict=True):
        if one.name.startswith("train"):
            assert one == ten
        else:
            assert one.hours < ten.hours <= 10 * one.hours
            assert ten.stored_gb == pytest.approx(10 * one.stored_gb)


def test_requests_are_counted_from_how_jobs_work() -> None:
    preprocess, _, bulk = made(1_000_000, "1x8").phases
    assert (preprocess.gets, preprocess.puts, preprocess.lists) == (1_002_000, 4_000, 1_000)
    assert (bulk.gets, bulk.puts, bulk.lists) == (1_031_250, 1_031_300, 2_000)


def test_only_what_was_measured_is_not_called_extrapolated() -> None:
    known = rates()["bulk"]["photos"]
    assert not made(known, "1x0").extrapolated
    assert made(known, "2x0").extrapolated == (not rates()["scaling"]["machines"])
    assert made(1_000_000_000, "1x0").extrapolated
    assert made(known, "8x0").extrapolated
    assert made(known, "1x1").extrapolated
    said = made(1_000_000_000, "8x8", "h100").assumptions
    assert sum("EXTRAPOLATED" in line for line in said) == 3


def test_a_gpu_helps_the_networks_alone() -> None:
    slow, fast = made(10_000_000, "1x8", "l4"), made(10_000_000, "1x8", "h100")
    assert gpu_speedup("h100", rates()) > gpu_speedup("l4", rates()) > 1
    assert fast.phases[2].hours < slow.phases[2].hours
    rest = rates()["bulk"]["rest_s_per_photo"]
    assert fast.phases[2].hours * 3600 > 10_000_000 * rest / 8 / 2


def test_slower_cores_take_longer_but_not_what_gpus_do() -> None:
    def planned(gpus: int, speed: float) -> dict[str, float]:
        size = Size.parse(f"1x{gpus}", "h100")
        return {p.name: p.hours for p in make_plan(10**9, size, fitted(Config(), size), speed=speed).phases}

    whole, half = planned(0, 1.0), planned(0, 0.5)
    listing = 10**9 * planning.LIST_S / planning.LIST_PAGE / 3600
    assert half["preprocess"] - listing == pytest.approx(2 * (whole["preprocess"] - listing))
    assert half["train attributes"] == pytest.approx(2 * whole["train attributes"])
    assert half["bulk"] - 2 * listing == pytest.approx(2 * (whole["bulk"] - 2 * listing))
    start = rates()["starts"]["train"] / 3600
    with_gpus, slower = planned(8, 1.0)["train attributes"], planned(8, 0.5)["train attributes"]
    assert slower - 2 * start == pytest.approx(with_gpus - start)


def test_the_yardstick_is_laid_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    here = yardstick.faces_per_second(0.2)
    assert here > 0
    monkeypatch.setattr(yardstick, "faces_per_second", lambda: here)
    monkeypatch.setattr(yardstick, "rates", lambda: {"yardstick": {"faces_per_s": 2 * here}})
    done = CliRunner().invoke(main, ["cluster", "plan", "--photos", "100", "--size", "1x0", "--here", "--json"])
    assert json.loads(done.output)["speed"] == pytest.approx(0.5)
    assert any("0.50 x as fast" in line for line in json.loads(done.output)["assumptions"])


def test_a_size_that_does_not_serve_is_refused_with_one_that_does() -> None:
    size = Size.parse("1x0")
    config = fitted(Config(), size)
    plan = make_plan(10_000_000, size, config)
    with pytest.raises(ConfigError, match=r"size 1x0 needs .* --within is 12 h; take (\d+)x0, or more hours") as told:
        check_deadline(plan, 12, size, config)
    larger = Size.parse(str(told.value).split("take ")[1].split(",")[0])
    check_deadline(make_plan(10_000_000, larger, config), 12, larger, config)
    with pytest.raises(ConfigError, match=r"1024 machines of this kind would not do either: .* bound by its driver"):
        check_deadline(make_plan(1_000_000_000, size, config), 1, size, config)


def test_the_command_prints_assumptions_and_marks() -> None:
    done = CliRunner().invoke(main, ["cluster", "plan", "--photos", "1e9", "--size", "4x8", "--price", "2"])
    assert done.exit_code == 0, done.output
    assert "1,000,000,000 photos on 4 machines" in done.output
    assert "assumed: " in done.output
    assert "EXTRAPOLATED: run a hundredth first" in done.output
    done = CliRunner().invoke(main, ["cluster", "plan", "--photos", "100", "--price", "2", "--json"])
    whole = json.loads(done.output)
    assert whole["cost"] == pytest.approx(2 * whole["hours"])
    for wrong in ("many", "1.5", "0", "nan", "1e99"):
        done = CliRunner().invoke(main, ["cluster", "plan", "--photos", wrong])
        assert (done.exit_code, "expected a whole number" in done.output) == (2, True)


def test_no_figure_is_written_down_but_the_rates() -> None:
    """With every rate doubled, every hour doubles: nothing is fixed beforehand."""
    before = made(10_000_000, "4x0")
    known = json.loads(json.dumps(rates()))
    for job in ("preprocess", "bulk"):
        known["starts"][job] *= 2
        for key in ("worker_s_per_photo", "driver_s_per_photo"):
            if key in known[job]:
                known[job][key] *= 2
    listing = planning.LIST_S
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "rates", lambda: known)
        patched.setattr(planning, "LIST_S", 2 * listing)
        after = made(10_000_000, "4x0")
    for one, two in zip(before.phases, after.phases, strict=True):
        if not one.name.startswith("train"):
            assert two.hours == pytest.approx(2 * one.hours)
