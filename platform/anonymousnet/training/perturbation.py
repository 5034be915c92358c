"""Computes the universal perturbation on faces as Stage III releases them, against whichever networks are named.

What is here runs in one process; pipelines/perturbation.py does the same work with an actor and its workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.align.detect import SMALL
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.device import Runner, autocast
from anonymousnet.errors import CheckpointError, ConfigError, StorageError
from anonymousnet.metrics import identity
from anonymousnet.nets.centerface import CenterFace
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.embedder import Embedder
from anonymousnet.privacy.randomness import derive
from anonymousnet.report.fooling import plot_fooling
from anonymousnet.training.data import FaceTable
from anonymousnet.training.embedder import embed
from anonymousnet.training.fooling import fooling_curve, robustness
from anonymousnet.training.painting import painted
from anonymousnet.training.targets import AttributeTarget, DetectorTarget, EmbedderTarget, Network, Target
from anonymousnet.training.universal import Pending, Plan, Universal, solve

TARGETS = ("attributes", "embedder", "detector")
EPSILONS = (3 / 255, 5 / 255, 10 / 255, 20 / 255)
UNSEEN = 300
"""Held-out faces that v is judged on."""
STATE = "universal.state"
Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A perturbation on disk and how well it does on faces it was not made from."""

    weights: Path
    epochs: int
    targets: tuple[str, ...]
    curve: list[dict[str, Any]]
    robustness: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Aim:
    """What v is made against, small enough to be sent to workers: they load the networks themselves."""

    config: Config
    against: tuple[str, ...]
    threshold: float | None
    """The cosine below which the embedder counts as fooled; None where it is no target."""

    def anonymizer(self) -> Anonymizer:
        """Stages I to III, and no perturbation yet."""
        off = self.config.perturb.model_copy(update={"epsilon": 0.0})
        return Anonymizer.load(self.config.model_copy(update={"perturb": off}))

    def targets(self, anonymizer: Anonymizer) -> list[Target]:
        """The networks to be fooled, on the anonymizer's device."""
        return [self._target(name, anonymizer) for name in self.against]

    def _target(self, name: str, anonymizer: Anonymizer) -> Target:
        place = anonymizer.runner.place
        if name == "attributes":
            classifier = place(weights.build(weights.read(self.config.predict.weights), Classifier))
            return AttributeTarget(_mixed(anonymizer, classifier), classifier.config.px)
        if name == "embedder":
            assert self.threshold is not None
            embedder = place(weights.build(weights.read("embedder"), Embedder))
            return EmbedderTarget(_mixed(anonymizer, embedder), embedder.config.px, self.threshold)
        net = place(CenterFace())
        heat = _mixed(anonymizer, lambda faces: net((faces + 1) * 127.5)[0])
        # The detector enlarges what is smaller than SMALL to it, and so sees every face here at that size.
        return DetectorTarget(heat, SMALL, self.config.align.detector_threshold)


def aimed(config: Config, against: tuple[str, ...], held_out: FaceTable) -> Aim:
    """The aim, its threshold measured on held-out people. Raises ConfigError for an unknown or repeated target."""
    unknown = [name for name in against if name not in TARGETS]
    if unknown or len(set(against)) != len(against) or not against:
        raise ConfigError(f"--against: expected some of {','.join(TARGETS)}, each once, got '{','.join(against)}'")
    return Aim(config, against, _threshold(config, held_out) if "embedder" in against else None)


def chosen(config: Config, data: FaceTable, faces: int) -> FaceTable:
    """The faces that v is made from, drawn with the configuration's seed."""
    if faces < 1:
        raise ConfigError(f"--faces: expected at least 1, got {faces}")
    return data.take(np.random.default_rng(config.seed).permutation(len(data))[:faces])


def compute_perturbation(
    config: Config, data: FaceTable, held_out: FaceTable, out: Path, against: tuple[str, ...], plan: Plan, faces: int,
    progress: Progress,
) -> Perturbation:  # fmt: skip
    """Compute v on `faces` released faces and write it to OUT/weights; a killed run goes on after its last epoch.

    Raises ConfigError for an unknown target, CheckpointError where OUT holds the state of another run.
    """
    aim = aimed(config, against, held_out)
    anonymizer, made_from = aim.anonymizer(), chosen(config, data, faces)
    targets = aim.targets(anonymizer)
    released = released_faces(anonymizer, made_from)
    run = run_of(plan, against, len(made_from))
    state = read_state(out, run) or Universal(torch.zeros(released.shape[1:]))
    while state.epochs < plan.epochs:
        state = solve(released, targets, plan, state, progress=lambda rest: list(rest)[:1])
        save_state(out, state, run)
        list(progress([state.epochs]))
    return judged(anonymizer, targets, held_out, state, run, out)


def run_of(plan: Plan, against: Sequence[str], faces: int) -> dict[str, Any]:
    """What v depends on, for its notes and to tell one run's state from another's."""
    return {**asdict(plan), "against": list(against), "faces": faces}


def judged(
    anonymizer: Anonymizer, targets: Sequence[Target], held_out: FaceTable, state: Universal, run: dict[str, Any],
    out: Path,
) -> Perturbation:  # fmt: skip
    """Measure v on held-out faces, where a release carries it: in the painted region. Write OUT/weights and the plot
    OUT/fooling.png. (v itself is solved for the whole crop, so that it serves any region.)"""
    against = tuple(run["against"])
    unseen = released_faces(anonymizer, held_out.take(np.arange(min(UNSEEN, len(held_out)))))
    v = state.v * anonymizer.region.masks(anonymizer.face_px)[1]
    curve = fooling_curve(v, unseen, targets, EPSILONS)
    robust = robustness(v, unseen, targets, run["xi"])
    notes = {**run, "curve": curve, "robustness": robust, "unseen": len(unseen), "made_for": anonymizer.weights}
    weights.write(out / "weights", "universal", {}, {"v": state.v}, notes)
    plot_fooling(out / "fooling.png", against, curve, robust, run["xi"])
    return Perturbation(out / "weights", state.epochs, against, curve, robust)


def released_faces(anonymizer: Anonymizer, table: FaceTable) -> Tensor:
    """Aligned faces (N, 3, px, px in [-1, 1]) as Stages I to III release them, composited into their context."""
    parts = np.array_split(np.arange(len(table)), max(1, len(table) // 64))
    return torch.cat([released(anonymizer, table.faces_N3HW[rows], rows) for rows in parts])


def released(anonymizer: Anonymizer, faces_B3HW: NDArray[np.uint8], rows: NDArray[np.int64]) -> Tensor:
    """The same for a few faces; `rows`, their numbers in the table, choose their identity codes."""
    keys = tuple(derive(bytes(32), "perturbation", str(row)) for row in rows)
    return painted(anonymizer, faces_B3HW, keys, keys)[0]


def _threshold(config: Config, held_out: FaceTable) -> float:
    """The cosine that an attacker would use: FAR 1e-2 on clean impostors."""
    runner = Runner(config.device, config.precision)
    embedder = runner.place(weights.build(weights.read("embedder"), Embedder))
    with torch.inference_mode(), autocast(runner.device, runner.dtype):
        vectors = embed(embedder, _resized(held_out.faces_N3HW, embedder.config.px))
    return float(identity.threshold_at(identity.impostor_scores(vectors, held_out.identities_N), 1e-2))


def _mixed(anonymizer: Anonymizer, net: Network) -> Network:
    """The network in the anonymizer's arithmetic and on its device; float32 out, where the faces came from."""
    runner = anonymizer.runner

    def run(faces: Tensor) -> Tensor:
        with autocast(runner.device, runner.dtype):
            out = net(faces.to(runner.device).contiguous(memory_format=torch.channels_last))
        return out.float().to(faces.device)

    return run


def _resized(faces_N3HW: np.ndarray, px: int) -> np.ndarray:
    if faces_N3HW.shape[-1] == px:
        return faces_N3HW
    smaller = nn.functional.interpolate(
        torch.from_numpy(faces_N3HW).float(), size=(px, px), mode="bilinear", antialias=True
    )
    return smaller.round().clamp(0, 255).byte().numpy()


def read_state(out: Path, run: dict[str, Any]) -> Universal | None:
    """The state that a run in OUT left behind, or None. Raises CheckpointError where it is damaged or another run's."""
    path = out / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            saved = json.loads((file.metadata() or {}).get("run", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = Universal(tensors["v"], int(tensors["epochs"]), tensors["history"].tolist())
        if "pending_v" in tensors:
            state.pending = Pending(tensors["pending_v"], int(tensors["step"]), tensors["counts"].tolist())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not read ({error}); delete it to start again") from error
    for key, value in saved.items():
        if run[key] != value and key != "epochs":  # more of them: the same run goes on
            raise CheckpointError(
                f"{path} was made with {key}={value}, this run has {key}={run[key]}; use the same, or another --out"
            )
    return state


def save_state(out: Path, state: Universal, run: dict[str, Any]) -> None:
    """Replace OUT's state in one step. Raises StorageError where the disk refuses."""
    tensors = {"v": state.v, "epochs": torch.tensor(state.epochs),
               "history": torch.tensor(state.history, dtype=torch.float64)}  # fmt: skip
    if state.pending:
        v, step, counts = state.pending
        tensors |= {"pending_v": v, "step": torch.tensor(step), "counts": torch.tensor(counts)}
    partial = out / f"{STATE}.partial"
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file({k: x.contiguous() for k, x in tensors.items()}, partial, {"run": json.dumps(run)})
        partial.replace(out / STATE)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write {out / STATE}: {error}; free some disk, or choose another --out") from error
