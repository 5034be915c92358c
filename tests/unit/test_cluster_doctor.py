"""What the doctor makes of a machine's answer: every fault named, each with its remedy."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from anonymousnet.cluster import probe
from anonymousnet.cluster.clinic import Machine, judged
from anonymousnet.config import Config
from anonymousnet.doctor import Check

GIB = 1 << 30
HERE = {
    "versions": {"anonymousnet": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"}, "source": "ab" * 32,
    "weights": {"generator": {"sha256": "cd" * 32}},
}  # fmt: skip
GOOD = {
    **HERE, "gpus": {"devices": 0, "available": False, "why": "", "name": "", "nccl": "", "driver": ""},
    "shm": 8 * GIB, "bucket": None, "skew_s": 0.01,
}  # fmt: skip
RESOURCES = {"CPU": 8.0, "object_store_memory": 2.0 * GIB}


def answer(resources: dict[str, float] | None = None, **other: Any) -> dict[str, Check]:
    found = copy.deepcopy(GOOD) | other
    machine = Machine("10.0.0.7", RESOURCES | (resources or {}), found)
    return {check.name.removeprefix("10.0.0.7 "): check for check in judged(machine, HERE)}


def gpus(**other: Any) -> dict[str, Any]:
    return {"devices": 8, "available": True, "why": "", "name": "H100", "nccl": "2.29", "driver": "590.1", **other}


def test_a_good_machine_is_good() -> None:
    found = answer()
    assert {check.status for check in found.values()} == {"ok"}
    assert set(found) == {"code", "weights", "gpu", "clock", "object store"}
    assert answer({"GPU": 8.0}, gpus=gpus())["gpu"].found == "8 x H100, driver 590.1, NCCL 2.29"


@pytest.mark.parametrize(
    ("part", "resources", "other", "status", "found", "remedy"),
    [
        ("code", {}, {"versions": HERE["versions"] | {"anonymousnet": None}}, "fail", "not installed", "wheel"),
        ("code", {}, {"versions": HERE["versions"] | {"ray": "2.59.0"}}, "fail", "ray 2.59.0 (here 2.60.0)", "image"),
        ("code", {}, {"source": "ef" * 32}, "fail", "but other code (efefefefefef, here abababababab)", "same build"),
        ("weights", {}, {"weights": {"generator": {"sha256": "00" * 32}}}, "fail", "other weights: generator", "same"),
        ("weights", {}, {"weights": {"generator": {"error": "no weights"}}}, "fail", "no weights", "same path"),
        ("gpu", {"GPU": 8.0}, {"gpus": gpus(available=False, why="no driver")}, "fail",
         "Ray was told of 8 GPUs, torch sees none (no driver)", "install NVIDIA's driver"),
        ("gpu", {"GPU": 8.0}, {"gpus": gpus(nccl="")}, "fail", "no NCCL", "CUDA build"),
        ("gpu", {}, {"gpus": gpus()}, "warn", "8 GPU devices that Ray was not told of", "--num-gpus"),
        ("clock", {}, {"skew_s": -7.5}, "warn", "-7.5 s", "chrony"),
        ("clock", {}, {"skew_s": 900.0}, "fail", "+900.0 s", "chrony"),
        ("object store", {"object_store_memory": 0.2 * GIB}, {}, "warn", "0.2 GiB", "--object-store-memory"),
        ("object store", {"object_store_memory": 9.0 * GIB}, {}, "fail", "larger than the shared memory", "--shm-size"),
        ("bucket", {}, {"bucket": {"name": "s3://b", "error": "cannot list s3://b: no permission"}}, "fail",
         "no permission", "role or the keys"),
    ],
)  # fmt: skip
def test_every_fault_has_its_remedy(
    part: str, resources: dict[str, float], other: dict[str, Any], status: str, found: str, remedy: str
) -> None:
    check = answer(resources, **other)[part]
    assert check.status == status
    assert found in check.found
    assert remedy in check.remedy


def test_a_machine_that_does_not_answer_is_named() -> None:
    (check,) = judged(Machine("10.0.0.8", {}, None, "no answer within 120 s"), HERE)
    assert (check.name, check.status) == ("10.0.0.8 answer", "fail")
    assert "restart" in check.remedy


def test_the_probe_looks_at_this_machine() -> None:
    found = probe.probe([Config().predict.weights, "/nowhere/at-all"], None, None)
    assert found["versions"]["ray"]
    assert len(found["source"]) == 64
    assert len(found["weights"]["attributes"]["sha256"]) == 64
    assert "no weights" in found["weights"]["/nowhere/at-all"]["error"]
    assert found["bucket"] is None
    wrong = probe.probe([], "s3://", None)["bucket"]
    assert wrong["error"]
