"""Keys, settings, evidence in headers, the Serve config file, calls that are made again: all without Ray."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from click.testing import CliRunner
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from anonymousnet.cluster.cli import main
from anonymousnet.config import Config
from anonymousnet.config_serve import ServeConfig
from anonymousnet.errors import BudgetExceeded, ConfigError
from anonymousnet.privacy.ledger import Ledger, Spend
from anonymousnet.serve import evidence, jobs
from anonymousnet.serve.app import check, config_of, deployments, rendered
from anonymousnet.serve.asked import Query, ask
from anonymousnet.serve.calls import Sleepers, call
from anonymousnet.serve.keys import Keys, new_key, remove_key
from anonymousnet.serve.problems import KINDS, OF_ERRORS, Problem, Refused

ROOT = Path(__file__).resolve().parents[2]


class TestKeys:
    def test_only_the_hash_is_kept(self, tmp_path: Path) -> None:
        secret = new_key(tmp_path / "keys.json", "acme", max_epsilon=5.0, per_minute=3)
        assert secret not in (tmp_path / "keys.json").read_text()
        assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
        found = Keys(tmp_path / "keys.json").find(secret)
        assert found is not None
        assert (found.name, found.max_epsilon, found.per_minute) == ("acme", 5.0, 3)

    def test_a_key_can_be_taken_away_while_the_service_runs(self, tmp_path: Path) -> None:
        file = tmp_path / "keys.json"
        one, two = new_key(file, "one"), new_key(file, "two")
        keys = Keys(file)
        assert keys.find(one)
        remove_key(file, "one")
        assert keys.find(one) is None
        assert keys.find(two)

    @pytest.mark.parametrize("name", ["", "A", "a/b", "a" * 41, "-a"])
    def test_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="key name"):
            new_key(tmp_path / "keys.json", name)

    def test_damaged_and_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no API keys"):
            Keys(tmp_path / "none.json")
        (tmp_path / "keys.json").write_text('{"keys": {"a": {"sha256": "short"}}}')
        with pytest.raises(ConfigError, match="do not read"):
            Keys(tmp_path / "keys.json")

    def test_on_the_command_line(self, tmp_path: Path) -> None:
        file, run = str(tmp_path / "keys.json"), CliRunner().invoke
        made = run(main, ["keys", "new", "acme", "--keys", file, "--budget", "30"])
        assert made.output.startswith("an_acme_")
        assert run(main, ["keys", "new", "acme", "--keys", file]).exit_code == 2
        assert "budget 30" in run(main, ["keys", "list", "--keys", file]).output
        assert run(main, ["keys", "new", "b", "--keys", file, "--per-minute", "0"]).exit_code == 2
        assert run(main, ["keys", "remove", "acme", "--keys", file]).exit_code == 0


class TestSettings:
    def test_open_to_others_only_with_keys(self) -> None:
        with pytest.raises(ConfigError, match="no API keys"):
            Config.load(None, ["serve.host=0.0.0.0"])
        assert not Config.load(None, ["serve.host=0.0.0.0", "serve.keys=k.json"]).serve.on_loopback
        assert Config.load(None, ["serve.host=localhost"]).serve.on_loopback

    def test_the_command_says_so_in_one_line(self) -> None:
        done = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
        assert done.exit_code == 2
        assert done.output.startswith("error: ")
        assert len(done.output.splitlines()) == 1

    def test_a_budget_needs_a_ledger(self, tmp_path: Path) -> None:
        new_key(tmp_path / "keys.json", "acme", budget=5)
        with pytest.raises(ConfigError, match="release.ledger"):
            check(Config.load(None, [f"serve.keys={tmp_path}/keys.json"]))

    def test_arguments_dotted_nested_and_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("obfuscate: {epsilon: 3}")
        config = config_of({"config": str(tmp_path / "a.yaml"), "serve.fused": "true", "synthesize": {"strength": 0.8}})
        assert (config.obfuscate.epsilon, config.serve.fused, config.synthesize.strength) == (3, True, 0.8)
        with pytest.raises(ConfigError, match="unknown setting"):
            config_of({"serve.colour": "red"})

    def test_the_file_for_serve_deploy_is_what_the_settings_say(self) -> None:
        from ray.serve.schema import ServeDeploySchema

        config = Config.load(None, ["serve.synthesize.max=7", "serve.port=8001", "obfuscate.keep=[Smiling]"])
        tree = yaml.safe_load(rendered(config))
        schema = ServeDeploySchema.model_validate(tree)
        assert schema.http_options.port == 8001
        assert {d.name for d in schema.applications[0].deployments} == {name for name, _ in deployments(config.serve)}
        assert config_of(tree["applications"][0]["args"]) == config

    def test_the_shipped_file_is_up_to_date(self) -> None:
        shipped = (ROOT / "serve" / "configs" / "serve.yaml").read_text()
        assert shipped == CliRunner().invoke(main, ["serve", "--render"]).output

    def test_fused_has_one_deployment_for_all_stages(self) -> None:
        names = [name for name, _ in deployments(ServeConfig(fused=True))]
        assert names == ["Ingress", "Fused", "Books"]


def test_measured_figures_are_the_readmes() -> None:
    import json

    readme = " ".join((ROOT / "README.md").read_text().split()).replace(" %", "%")
    measured = json.loads((ROOT / "serve" / "measured.json").read_text())
    names, own = measured["recogniser_names"], measured["retrained_names"]
    low, high = (f"{100 * value:.1f}" for value in names["interval"])
    assert f"names {names['untouched']:.0%} untouched" in readme
    assert f"{names['released']:.1%} [{low}, {high}] after ours (chance {names['chance']:.1%})" in readme
    low, high = (f"{100 * value:.1f}" for value in own["interval"])
    assert f"names {own['released']:.1%} [{low}, {high}] of {measured['named_of']}" in readme
    assert f"in {measured['retrained_links_own_original']:.0%} of cases" in readme


def test_evidence_headers_hold_public_evidence_only() -> None:
    face = {"released": {"Male": True, "5_o_Clock_Shadow": True, "Young": False}, "epsilon": 10.0,
            "photo_epsilon": 20.0, "account": "near-duplicates of this photo", "t": 0.1234567,
            "covers": 'all "that"', "unprotected": ("Bald",), "strength": 1.0, "region": "face",
            "perturbation": 5 / 255, "weights": {"generator": "ab"}, "precision": "cpu-bfloat16",
            "looks": "all", "smallest_face_px": 16, "covered": 0}  # fmt: skip
    found = evidence.headers([face, face], "summer")
    assert found["Anonymousnet-Released"] == "(Male *5_o_Clock_Shadow), (Male *5_o_Clock_Shadow)"
    assert (found["Anonymousnet-T"], found["Anonymousnet-Epsilon"]) == ("0.123", "10")
    assert found["Anonymousnet-Photo-Epsilon"] == "20"
    assert found["Anonymousnet-Account"] == '"near-duplicates of this photo"'
    assert found["Anonymousnet-Covers"] == '"all \\"that\\""'
    assert all(value.isascii() and value.isprintable() for value in found.values())
    assert len(evidence.headers([face] * 1000, "x").get("Anonymousnet-Released", "")) <= evidence.LONGEST


def test_every_problem_has_a_remedy_and_a_status() -> None:
    assert all(kind.remedy and 400 <= kind.status < 600 for kind in KINDS.values())
    assert set(OF_ERRORS.values()) <= set(KINDS)


def test_an_unexpected_error_tells_nothing_of_the_photo() -> None:
    problem = Refused.of(ValueError("private: 0.731")).problem()
    assert (problem.kind, "0.731" in problem.detail) == ("withheld", False)


class Handle:
    """A method of a deployment whose replicas die a few times."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def remote(self, *arguments: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return await answer()
        return answer


class TestCalls:
    def test_a_dead_replica_is_asked_again(self) -> None:
        gone = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        handle = Handle(ActorDiedError(), ActorUnavailableError("away", None), gone, "done")
        assert asyncio.run(call(handle, left_s=5)) == "done"

    def test_too_much_is_told_at_once(self) -> None:
        assert asyncio.run(call(Handle(BackPressureError(1, 1)), left_s=5)).problem().status == 503

    def test_the_deadline_ends_waiting_and_trying(self) -> None:
        async def slow() -> None:
            await asyncio.sleep(60)

        begun = time.monotonic()
        assert asyncio.run(call(Handle(slow), left_s=0.2)).problem().status == 504
        assert asyncio.run(call(Handle(*[ActorDiedError()] * 99), left_s=0.5)).problem().status == 503
        assert time.monotonic() - begun < 5

    def test_other_errors_are_not_hidden(self) -> None:
        with pytest.raises(KeyError):
            asyncio.run(call(Handle(KeyError("bug")), left_s=5))


def test_sleepers_are_woken_at_once_and_not_again_while_awake() -> None:
    async def two_photos() -> list[int]:
        found, started = list[int](), asyncio.Event()

        async def starts() -> None:
            found.append(len(found))
            await started.wait()

        sleepers = Sleepers({Handle(*[starts] * 9): 0.2, Handle(*[starts] * 9): 60.0})
        for pause in (0.0, 0.3, 0.0):
            sleepers.wake(left_s=5)
            await asyncio.sleep(pause)
        started.set()
        await asyncio.sleep(0)
        return found

    assert len(asyncio.run(two_photos())) == 3


class TestJobs:
    def test_places(self) -> None:
        assert jobs.within("s3://photos/public/2026", "s3://photos/public")
        assert jobs.within("s3://photos", "s3://photos/")
        assert not jobs.within("s3://photos/public-not", "s3://photos/public")
        assert not jobs.within("s3://photos", "s3://photos/public")
        for place in ("s3://photos/public/../private", "s3://photos/public/./x", "s3://photos/public//x"):
            assert not jobs.within(place, "s3://photos/public"), place

    def test_a_key_has_buckets_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = new_key(tmp_path / "keys.json", "acme", buckets=("s3://photos/acme", "s3://elsewhere"))
        key = Keys(tmp_path / "keys.json").find(secret)
        config = Config.load(None, ["serve.buckets=[s3://photos]", "serve.audit=s3://private"])
        service, mine = jobs.Jobs(config), ask(Query(epsilon=2.0), config, key)

        async def nobody(_: object) -> None:
            return None

        monkeypatch.setattr(jobs, "_asked_of_ray", nobody)
        asyncio.run(service.submit("s3://photos/acme/in", "s3://photos/acme/out", mine))
        asyncio.run(service.submit("s3://photos/in", "s3://photos/out", ask(Query(epsilon=2.0), config, None)))
        for places in (("s3://photos/in", "s3://photos/acme/out"), ("s3://photos/acme/in", "s3://photos/out"),
                       ("s3://elsewhere/in", "s3://photos/acme/out")):  # fmt: skip
            with pytest.raises(Problem, match="in none of the places that jobs may use here, with this key"):
                asyncio.run(service.submit(*places, mine))
        with pytest.raises(ConfigError, match="buckets"):
            new_key(tmp_path / "keys.json", "other", buckets=("photos",))

    def test_the_command_is_one_that_there_is(self) -> None:
        config = Config.load(None, ["serve.buckets=[s3://photos]", "serve.audit=s3://private", "obfuscate.t=0.5",
                                    "serve.keepable=[Smiling]"])  # fmt: skip
        asked = ask(Query(epsilon=2.0, keep=("Smiling",)), config, None)
        command = jobs.command_of(config, asked, "s3://photos/a b", "s3://photos/out", "ab" * 16)
        words = command[4:]
        with main.commands["anonymize"].make_context("anonymize", words) as context:
            assert context.params["src"] == "s3://photos/a b"
            assert context.params["audit"] == f"s3://private/{'ab' * 16}"
            made = Config.load(None, context.params["overrides"])
        assert (made.obfuscate.epsilon, made.obfuscate.keep, made.obfuscate.t) == (2.0, ("Smiling",), 0.5)

    def test_only_counts_are_told(self) -> None:
        logs = "\n".join([
            "error: alice.jpg: damaged", '{"done": 3, "of": 9, "eta_s": 2.0, "current": "alice.jpg"}',
            '{"manifest": "s3://out/manifest.json", "photos": 9, "private": "s3://private", "reasons": {"x": 1}}',
        ])  # fmt: skip
        assert jobs.told(logs) == {
            "progress": {"done": 3, "of": 9, "eta_s": 2.0},
            "summary": {"manifest": "s3://out/manifest.json", "photos": 9},
        }


def test_a_spend_may_bring_its_own_budget(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", budget=5.0, key=bytes(32)) as ledger:
        mine, keys = Spend(b"me", b"1", "r", {"a": 4.0}), Spend(b"key", b"1", "r", {"a": 4.0}, 7.0)
        ledger.spend_many([mine, keys])
        with pytest.raises(BudgetExceeded):
            ledger.spend_many([Spend(b"you", b"2", "r", {"a": 4.0}), Spend(b"key", b"2", "r", {"a": 4.0}, 7.0)])
        assert ledger.spent(b"you") == 0.0
