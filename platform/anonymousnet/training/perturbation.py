"""Computes the shipped universal perturbation: on faces as Stage III releases them, against classifier and embedder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.align.region import masks, pixelated
from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.device import autocast
from anonymousnet.errors import ConfigError
from anonymousnet.faces import FaceBatch
from anonymousnet.metrics import identity
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.embedder import Embedder
from anonymousnet.privacy.randomness import derive
from anonymousnet.training.data import FaceTable
from anonymousnet.training.embedder import embed
from anonymousnet.training.targets import AttributeTarget, EmbedderTarget, Network, Target
from anonymousnet.training.universal import Solver, Universal, fooling_curve, solve

EPSILONS = (2 / 255, 5 / 255, 10 / 255, 20 / 255)
Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A perturbation on disk and how well it does on faces it was not made from."""

    weights: Path
    epochs: int
    targets: tuple[str, ...]
    curve: list[dict[str, Any]]


def compute_perturbation(
    config: Config, data: FaceTable, held_out: FaceTable, out: Path, against: tuple[str, ...], solver: Solver,
    xi: float, faces: int, epochs: int, progress: Progress,
) -> Perturbation:  # fmt: skip
    """Compute v on `faces` released faces and write it to OUT/weights; a killed run goes on after its last epoch.

    `against`: attributes, embedder or both. Raises ConfigError for another target.
    """
    anonymizer = Anonymizer.load(
        config.model_copy(update={"perturb": config.perturb.model_copy(update={"epsilon": 0.0})})
    )
    targets = [_target(name, anonymizer, held_out) for name in against]
    chosen = np.random.default_rng(config.seed).permutation(len(data))[:faces]
    released = released_faces(anonymizer, data.take(chosen))
    state = _read(out / "universal.state", released.shape[1:])
    while state.epochs < epochs:
        state = solve(released, targets, xi, solver, epochs, seed=config.seed, robust=True, tintless=True, start=state,
                      progress=lambda rest: list(rest)[:1])  # fmt: skip
        _save(out / "universal.state", state)
        list(progress([state.epochs]))
    unseen = released_faces(anonymizer, held_out.take(np.arange(min(300, len(held_out)))))
    curve = fooling_curve(state.v, unseen, targets, EPSILONS)
    notes = {"against": against, "solver": solver, "xi": xi, "faces": faces, "epochs": epochs, "seed": config.seed,
             "curve": curve, "made_for": anonymizer.weights}  # fmt: skip
    weights.write(out / "weights", "universal", {}, {"v": state.v}, notes)
    return Perturbation(out / "weights", state.epochs, against, curve)


def released_faces(anonymizer: Anonymizer, table: FaceTable) -> Tensor:
    """Aligned faces (N, 3, px, px in [-1, 1]) as Stages I to III release them, composited into their context."""
    region, weight = masks(anonymizer.face_px)
    done = []
    for rows in np.array_split(np.arange(len(table)), max(1, len(table) // 64)):
        source = table.batch(rows, torch.device("cpu")).faces_B3HW.contiguous()
        keys = tuple(derive(bytes(32), "perturbation", str(row)) for row in rows)
        batch = FaceBatch(pixelated(source, 0), region.expand(len(rows), -1, -1, -1), keys, keys, source_B3HW=source)
        painted = anonymizer.run(batch).faces_B3HW
        assert painted is not None
        done.append(painted * weight + source * (1 - weight))
    return torch.cat(done)


def _target(name: str, anonymizer: Anonymizer, held_out: FaceTable) -> Target:
    runner = anonymizer.runner
    if name == "attributes":
        classifier = runner.place(weights.build(weights.read(anonymizer.config.predict.weights), Classifier))
        return AttributeTarget(_mixed(anonymizer, classifier), classifier.config.px)
    if name == "embedder":
        embedder = runner.place(weights.build(weights.read("embedder"), Embedder))
        px = embedder.config.px
        sized = FaceTable(_resized(held_out.faces_N3HW, px), held_out.attributes_N40, held_out.identities_N)
        with torch.inference_mode(), autocast(runner.device, runner.dtype):
            vectors = embed(embedder, sized.faces_N3HW)
        # The threshold that an attacker would use: FAR 1e-2 on clean impostors.
        threshold = identity.threshold_at(identity.impostor_scores(vectors, held_out.identities_N), 1e-2)
        return EmbedderTarget(_mixed(anonymizer, embedder), px, threshold)
    raise ConfigError(f"no target '{name}'; expected attributes or embedder")


def _mixed(anonymizer: Anonymizer, net: nn.Module) -> Network:
    """The network in the anonymizer's arithmetic, float32 out."""

    def run(faces: Tensor) -> Tensor:
        with autocast(anonymizer.runner.device, anonymizer.runner.dtype):
            out: Tensor = net(faces.contiguous(memory_format=torch.channels_last))
        return out.float()

    return run


def _resized(faces_N3HW: np.ndarray, px: int) -> np.ndarray:
    if faces_N3HW.shape[-1] == px:
        return faces_N3HW
    smaller = nn.functional.interpolate(
        torch.from_numpy(faces_N3HW).float(), size=(px, px), mode="bilinear", antialias=True
    )
    return smaller.round().clamp(0, 255).byte().numpy()


def _read(path: Path, shape: torch.Size) -> Universal:
    if not path.exists():
        return Universal(torch.zeros(shape))
    state = load_file(path)
    return Universal(state["v"], int(state["epochs"]), state["history"].tolist())


def _save(path: Path, state: Universal) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {"v": state.v.contiguous(), "epochs": torch.tensor(state.epochs), "history": torch.tensor(state.history)},
        partial,
    )
    partial.replace(path)
