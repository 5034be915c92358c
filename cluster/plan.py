"""What a data set will take on a cluster: hours, storage and requests, from measured rates. Nothing here is a promise.

    plan = make_plan(1_000_000_000, Size.parse("4x8", "h100"), Config())

The model, for each job:  hours = start + photos x driver + photos x worker / (workers x efficiency(machines)).
`worker` is what a photo takes one process, `driver` what it takes the one driver (listing, manifest) whatever the
number of workers. All rates are of rates.json, which says of each where it was measured; what was not measured is an
assumption, and printed as one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

from anonymousnet.cluster.sizes import Size, machines
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError

UTILISATION = 0.10
"""ASSUMED share of a GPU's peak that these small networks reach in inference and training."""
LIST_PAGE, LIST_S = 1000, 0.1
"""Keys of a listing's page; ASSUMED seconds of one such request."""
MANIFEST_ROWS = 20_000
CHUNK = 32
MOST = 1024
"""Machines that a deadline is tried with, at most."""


Rates = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Phase:
    """One job."""

    name: str
    workers: int
    hours: float
    stored_gb: float
    """Written, in all."""
    gets: int
    puts: int
    lists: int
    bound_by: str
    """What most of the hours are: start, driver, workers, or the CPU beside each GPU."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All phases, and what they rest on."""

    photos: int
    size: str
    machines: int
    gpu: str
    phases: tuple[Phase, ...]
    speed: float
    """Of a core, that of the measured machine being 1."""
    extrapolated: bool
    """Beyond ten times what was run, or on machines that were not measured."""
    assumptions: tuple[str, ...] = field(default=())

    @property
    def hours(self) -> float:
        return sum(phase.hours for phase in self.phases)


@lru_cache
def rates() -> Rates:
    """What was measured, where and how."""
    found: Rates = json.loads(Path(__file__).with_name("rates.json").read_text())
    return found


def make_plan(
    photos: int, size: Size, config: Config, task: str = "attributes", workers: int | None = None, speed: float = 1.0
) -> Plan:
    """Preprocess, train `task` and release `photos` photos. `config`: fitted to the size.

    `workers`: processes of preprocessing and bulk [what the size has]; `speed`: of a core, that of the measured
    machine being 1 (`yardstick`).
    """
    known = at_speed(rates(), speed)
    cpu_workers = workers or size.nodes * max(1, size.cpus - 2)
    bulk_workers = workers or (size.nodes * size.gpus if size.gpus else cpu_workers)
    phases = (
        _preprocess(known, photos, cpu_workers, size.nodes), _train(known, task, config, size),
        _bulk(known, photos, bulk_workers, size),
    )  # fmt: skip
    extrapolated = photos > 10 * known["bulk"]["photos"] or size.nodes > max(_scaling()) or size.gpus > 0
    said = tuple(_assumptions(photos, size, speed))
    return Plan(photos, size.name, size.nodes, size.gpu, phases, speed, extrapolated, said)


def at_speed(known: Rates, speed: float) -> Rates:
    """Rates of a machine whose cores are `speed` times as fast as those that were measured."""
    timed = {"starts", "worker_s_per_photo", "networks_s_per_photo", "rest_s_per_photo", "driver_s_per_photo",
             "worker_s_per_face"}  # fmt: skip

    def slowed(tree: Rates, within: bool) -> Rates:
        done = dict(tree)
        for name, value in tree.items():
            if isinstance(value, dict):
                done[name] = slowed(value, name in timed)
            elif (within or name in timed) and isinstance(value, float):
                done[name] = value / speed
        return done

    return slowed(known, False)


def efficiency(nodes: int) -> float:
    """Share of N times one machine's speed that N machines reach together.

    As measured; beyond, the loss that each doubling brought goes on.
    """
    measured = _scaling()
    if nodes in measured:
        return measured[nodes]
    most = max(measured)
    per_doubling = measured[most] ** (1 / (most.bit_length() - 1))
    return float(per_doubling ** (nodes - 1).bit_length())


def _scaling() -> dict[int, float]:
    """Efficiency by machines, as far as it was measured; one machine is what all rates are of."""
    return {int(n): min(1.0, float(one["efficiency"])) for n, one in rates()["scaling"]["machines"].items()}


def job_seconds(photos: int, workers: int, nodes: int, start: float, driver: float, worker: float) -> float:
    """The model."""
    return start + photos * driver + photos * worker / (workers * efficiency(nodes))


def _preprocess(known: Rates, photos: int, workers: int, nodes: int) -> Phase:
    each, start = known["preprocess"], known["starts"]["preprocess"]
    listing = ceil(photos / LIST_PAGE)
    driver = LIST_S / LIST_PAGE
    seconds = job_seconds(photos, workers, nodes, start, driver, each["worker_s_per_photo"])
    shards = ceil(photos / 500)
    stored = photos * each["shard_bytes_per_photo"] / 1e9
    bound = _bound(seconds, start, photos * driver)
    return Phase("preprocess", workers, seconds / 3600, stored, photos + shards, 2 * shards, listing, bound)


def _train(known: Rates, task: str, config: Config, size: Size) -> Phase:
    from anonymousnet.training.tasks import task_named

    settings = config.train.over(task_named(task).defaults)
    if task not in known["train"]:
        raise ConfigError(f"task {task} was never timed; plan attributes or generator, and compare the networks")
    workers, steps, batch = config.scale.workers or 1, settings.steps or 1, settings.batch or 2
    each = known["train"][task]["worker_s_per_face"]
    if size.gpus:
        each = each / gpu_speedup(size.gpu, known)
    start = known["starts"]["train"]
    seconds = start + steps * batch * each / (workers * efficiency(size.nodes))
    checkpoints = ceil(steps / config.train.checkpoint_every)
    bound = _bound(seconds, start, 0)
    return Phase(f"train {task}", workers, seconds / 3600, 0.0, steps * batch // 500, 4 * checkpoints, 1, bound)


def _bulk(known: Rates, photos: int, workers: int, size: Size) -> Phase:
    each, start = known["bulk"], known["starts"]["bulk"]
    worker = each["worker_s_per_photo"]
    if size.gpus:  # the networks move to the GPU; decoding, detection, encoding stay on the process's CPU
        share = each["networks_s_per_photo"] / (each["networks_s_per_photo"] + each["rest_s_per_photo"])
        worker = worker * (1 - share) + worker * share / gpu_speedup(size.gpu, known)
    driver = each["driver_s_per_photo"] + 2 * LIST_S / LIST_PAGE
    seconds = job_seconds(photos, workers, size.nodes, start, driver, worker)
    stored = photos * (each["released_bytes_per_photo"] + each["audit_bytes_per_photo"]) / 1e9
    chunks, manifest = ceil(photos / CHUNK), ceil(photos / MANIFEST_ROWS)
    bound = _bound(seconds, start, photos * driver)
    if size.gpus and bound == "workers":
        bound = "CPU beside each GPU"
    return Phase(
        "bulk", workers, seconds / 3600, stored, photos + chunks, photos + chunks + manifest,
        2 * ceil(photos / LIST_PAGE), bound,
    )  # fmt: skip


def _bound(seconds: float, start: float, driver: float) -> str:
    parts = {"start": start, "driver": driver, "workers": seconds - start - driver}
    return max(parts, key=lambda part: parts[part])


def gpu_speedup(gpu: str, known: Rates) -> float:
    """How much faster a GPU is than one process of the machine with these rates: peak x UTILISATION over what that
    reaches."""
    reached = known["flops"]["bulk_per_face"] / known["bulk"]["networks_s_per_photo"]
    return float(machines()["gpus"][gpu]["bf16_tflops"] * 1e12 * UTILISATION / reached)


def _work_hours(plan: Plan) -> float:
    """Without training, which does not grow with the photos that are released."""
    return sum(phase.hours for phase in plan.phases if not phase.name.startswith("train"))


def check_deadline(plan: Plan, hours: float, size: Size, config: Config) -> None:
    """Raise ConfigError where preprocessing and bulk take longer than `hours`, naming a size that serves."""
    needed = _work_hours(plan)
    if needed <= hours:
        return
    for nodes in (2**doublings for doublings in range(MOST.bit_length())):
        larger = make_plan(
            plan.photos, replace(size, nodes=nodes, name=f"{nodes}x{size.gpus}"), config, speed=plan.speed
        )
        if _work_hours(larger) <= hours:
            remedy = f"take {larger.size}, or more hours"
            break
    else:
        longest = max(larger.phases, key=lambda phase: phase.hours)
        remedy = (
            f"{MOST} machines of this kind would not do either: {longest.name} is bound by its {longest.bound_by}; "
            "take other machines, or split the photos over several jobs by prefix"
        )
    raise ConfigError(
        f"size {size.name} needs {needed:,.1f} h for preprocess and bulk of {plan.photos:,} photos, --within is "
        f"{hours:g} h; {remedy}"
    )


def _assumptions(photos: int, size: Size, speed: float) -> list[str]:
    known = at_speed(rates(), speed)
    where = known["provenance"]
    said = [
        f"measured by {where['date']} on {where['machine']}",
        *(f"{name}: {known[name]['source']}" for name in ("preprocess", "train", "bulk")),
        f"starts: {known['starts']['source']}",
        f"yardstick: {known['yardstick']['source']}",
        f"scaling: {known['scaling']['source']}; efficiency {efficiency(size.nodes):.2f} at {size.nodes} machines",
        f"assumed: a CPU of {size.instance} is {speed:.2f} x as fast as a core of the measured machine; one process on "
        "each",
        f"assumed: listing {LIST_PAGE} keys takes {LIST_S} s; a photo is as large as the measured ones "
        f"({known['bulk']['source_bytes_per_photo'] / 1000:.1f} kB), has one face, and lies in an object of its own",
    ]
    if size.gpus:
        said.append(
            f"EXTRAPOLATED, no GPU was measured: {machines()['gpus'][size.gpu]['name']} at {UTILISATION:.0%} of its "
            f"peak in bf16, {gpu_speedup(size.gpu, known):,.0f} x one process for the networks alone; everything else "
            "of a photo stays on one CPU per GPU"
        )
    if photos > 10 * known["bulk"]["photos"]:
        said.append(
            f"EXTRAPOLATED: {photos:,} photos from runs of up to {max(known['bulk']['photos'], 1):,} (bulk) and "
            f"{known['preprocess']['photos']:,} (preprocess)"
        )
    if size.nodes > max(_scaling()):
        said.append("EXTRAPOLATED: more machines than the scaling was measured on")
    return said
