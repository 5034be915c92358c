"""`anonymousnet doctor --cluster`: is every machine of a cluster fit to work, and do they agree with this one?

Each machine looks at itself in one task (`probe`), which is sent by value: it works, and tells, where another
version of AnonymousNet is installed, or none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from anonymousnet.cluster import probe
from anonymousnet.config import Config
from anonymousnet.doctor import Check

Verdict = tuple[Literal["ok", "warn", "fail"], str, str]

ANSWER_S = 120.0
"""Seconds in which a machine must answer; the first answer waits for Python and torch to be loaded."""
SKEW_S = 2.0
"""Clocks further apart than this get a warning, or signed requests to S3 will be refused at fifteen minutes."""
SKEW_FATAL_S = 300.0
STORE = 1 << 30
"""Bytes of object store below which a machine gets a warning."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine said of itself, or why it said nothing."""

    name: str
    """Its address."""
    resources: dict[str, float]
    found: dict[str, Any] | None
    error: str = ""


def checks(config: Config, address: str, bucket: str | None, endpoint_url: str | None) -> Iterator[Check]:
    """Examine every machine of the cluster at `address`. Raises ClusterError where no Ray answers there."""
    from anonymousnet.pipelines.session import ray_session

    with ray_session(address):
        machines = list(examine(config, bucket, endpoint_url))
    here = probe.probe(_needed(config), None, None)
    yield Check("cluster", "ok", f"{len(machines)} machines at {address}")
    for machine in machines:
        yield from judged(machine, here)


def _needed(config: Config) -> list[str]:
    read = [config.predict.weights, config.predict.surroundings]
    return [*read, config.synthesize.generator, config.perturb.weights]


def examine(config: Config, bucket: str | None, endpoint_url: str | None) -> Iterator[Machine]:
    """What each living machine says of itself; all are asked at once."""
    import ray
    from ray import cloudpickle
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(probe)
    try:
        asked = []
        nodes = [node for node in ray.nodes() if node["Alive"]]
        addresses = Counter(node["NodeManagerAddress"] for node in nodes)
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Without a share of a GPU, a task is shown none; a small one is free beside any job.
            share = 0.001 if node["Resources"].get("GPU") else 0
            kind: Any = ray.remote(num_cpus=0, num_gpus=share, max_retries=0)
            look, read = kind(probe.probe), kind(probe.clock)
            answer = look.options(scheduling_strategy=there).remote(_needed(config), bucket, endpoint_url)
            asked.append((node, answer, read.options(scheduling_strategy=there)))
        for node, answer, read in asked:
            found, error = None, ""
            try:
                found = ray.get(answer, timeout=ANSWER_S)
                before = time.time()
                there_now = ray.get(read.remote(), timeout=ANSWER_S)
                found["skew_s"] = there_now - (before + time.time()) / 2
            except GetTimeoutError:
                error = f"no answer within {ANSWER_S:.0f} s"
            except RayError as failed:
                error = " ".join(str(failed).split())[-300:]
            name = node["NodeManagerAddress"]
            if addresses[name] > 1:  # several on one machine, as in tests
                name += f"/{node['NodeID'][:6]}"
            yield Machine(name, node["Resources"], found, error)
    finally:
        cloudpickle.unregister_pickle_by_value(probe)


def judged(machine: Machine, here: dict[str, Any]) -> Iterator[Check]:
    """The checks of one machine; `here`: what this one says of itself."""
    found = machine.found
    if found is None:
        yield Check(
            f"{machine.name} answer", "fail", machine.error,
            "look at the machine: `ray status`, its raylet's log, the network between it and the head; then restart it",
        )  # fmt: skip
        return
    judges: dict[str, Callable[[dict[str, Any], dict[str, float], dict[str, Any]], Verdict]] = {
        "code": _versions, "weights": _weights, "gpu": _gpu, "clock": _clock, "object store": _store, "bucket": _bucket,
    }  # fmt: skip
    for part, judge in judges.items():
        status, said, remedy = judge(found, machine.resources, here)
        if said:
            yield Check(f"{machine.name} {part}", status, said, remedy)


def _versions(found: dict[str, Any], _: Any, here: dict[str, Any]) -> Verdict:
    ours, theirs = here["versions"], found["versions"]
    if theirs.get("anonymousnet") is None:
        return "fail", "anonymousnet is not installed", "use the image of this version, or submit with the wheel"
    other = [f"{name} {theirs.get(name)} (here {own})" for name, own in ours.items() if theirs.get(name) != own]
    if other:
        return "fail", ", ".join(other), "install the same image on all machines, and restart them"
    if found["source"] != here["source"]:
        return (
            "fail", f"anonymousnet {ours['anonymousnet']}, but other code ({found['source'][:12]}, here "
            f"{here['source'][:12]})", "install the same build on all machines, and restart them",
        )  # fmt: skip
    return "ok", f"anonymousnet {ours['anonymousnet']}, source {found['source'][:12]}, Ray {ours['ray']}", ""


def _weights(found: dict[str, Any], _: Any, here: dict[str, Any]) -> Verdict:
    if wrong := {name: said for name, said in found["weights"].items() if not said.get("sha256")}:
        name, said = next(iter(wrong.items()))
        return "fail", f"{name}: {said['error']}", "put the same weights on all machines, at the same path"
    other = [name for name, said in found["weights"].items() if said != here["weights"][name]]
    if other:
        return "fail", f"other weights: {', '.join(other)}", "put the same weights on all machines"
    return "ok", ", ".join(f"{name} {said['sha256'][:12]}" for name, said in found["weights"].items()), ""


def _gpu(found: dict[str, Any], resources: dict[str, float], _: Any) -> Verdict:
    told, seen = int(resources.get("GPU", 0)), found["gpus"]
    if told and not seen["available"]:
        return (
            "fail", f"Ray was told of {told} GPUs, torch sees none ({seen['why']})",
            "install NVIDIA's driver and container toolkit on the machine, use the -cuda image, then restart Ray",
        )  # fmt: skip
    if seen["devices"] and not told:
        return "warn", f"{seen['devices']} GPU devices that Ray was not told of", "start Ray with --num-gpus"
    if not told:
        return "ok", "none", ""
    if not seen["nccl"]:
        return "fail", "torch has no NCCL", "install PyTorch's CUDA build; training over several GPUs needs NCCL"
    return "ok", f"{told} x {seen['name']}, driver {seen['driver']}, NCCL {seen['nccl']}", ""


def _clock(found: dict[str, Any], _: Any, __: Any) -> Verdict:
    skew = found["skew_s"]
    if abs(skew) <= SKEW_S:
        return "ok", f"within {max(abs(skew), 0.1):.1f} s", ""
    said = f"{skew:+.1f} s from this machine's"
    return "fail" if abs(skew) > SKEW_FATAL_S else "warn", said, "run an NTP client (chrony) on all machines"


def _store(found: dict[str, Any], resources: dict[str, float], _: Any) -> Verdict:
    size, shm = resources.get("object_store_memory", 0), found["shm"]
    said = f"{size / 2**30:.1f} GiB, /dev/shm {shm / 2**30:.1f} GiB"
    if size > shm:
        return "fail", f"{said}: larger than the shared memory", "raise the pod's /dev/shm, or docker's --shm-size"
    if size < STORE:
        return "warn", said, "give Ray at least 1 GiB: --object-store-memory, and as much shared memory"
    return "ok", said, ""


def _bucket(found: dict[str, Any], _: Any, __: Any) -> Verdict:
    said = found["bucket"]
    if said is None:
        return "ok", "", ""
    if said["error"]:
        return "fail", said["error"], "give this machine the role or the keys for the bucket, and a way to it"
    return "ok", f"{said['name']} can be listed", ""
