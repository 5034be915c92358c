"""Network weights: safetensors beside a `config.json` that names the architecture and the file's SHA-256.

    weights/NAME/model.safetensors   fp16 tensors
    weights/NAME/config.json         {"network": ..., "config": {...}, "sha256": ..., "notes": {...}}
    weights/NAME/README.md           the model card

Loading verifies the hash, and never unpickles anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import WeightsError
from anonymousnet.nets.classifier import Classifier, ClassifierConfig, Surroundings
from anonymousnet.nets.codes import Codes, CodesConfig
from anonymousnet.nets.dan import DAN, DANConfig
from anonymousnet.nets.embedder import Embedder, EmbedderConfig
from anonymousnet.nets.generator import Generator, GeneratorConfig
from anonymousnet.nets.painter import Painter, PainterConfig
from anonymousnet.nets.refiner import Refiner, RefinerConfig
from anonymousnet.nets.translator import Translator, TranslatorConfig
from anonymousnet.weights.hashes import SHA256

Net = TypeVar("Net", bound=nn.Module)

SHIPPED = Path(__file__).parent
NETWORKS: dict[str, tuple[type[nn.Module], Any]] = {
    "classifier": (Classifier, ClassifierConfig),
    "codes": (Codes, CodesConfig),
    "dan": (DAN, DANConfig),
    "embedder": (Embedder, EmbedderConfig),
    "generator": (Generator, GeneratorConfig),
    "painter": (Painter, PainterConfig),
    "refiner": (Refiner, RefinerConfig),
    "surroundings": (Surroundings, ClassifierConfig),
    "translator": (Translator, TranslatorConfig),
}
"""Architectures that a config.json may name."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One verified weights file."""

    name: str
    network: str
    config: dict[str, Any]
    sha256: str
    tensors: dict[str, Tensor]
    notes: dict[str, Any]


def folder_of(name: str) -> Path:
    """The folder of shipped weights called `name`, or of a user's own, given by path."""
    if "/" not in name and (SHIPPED / name / "config.json").exists():
        return SHIPPED / name
    folder = resolve_path(name)
    if not (folder / "config.json").exists():
        shipped = ", ".join(shipped_names()) or "none"
        raise WeightsError(
            f"no weights '{name}': expected a shipped name ({shipped}) or a folder that holds config.json "
            "(`anonymousnet train` makes one)"
        )
    return folder


def shipped_names() -> list[str]:
    """Names of the weights that came with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


def read(name: str) -> Weights:
    """Read and verify weights. Raises WeightsError naming the file when its hash is not the one in config.json, or, of
    shipped weights, not the one in the code.
    """
    folder = folder_of(name)
    file = folder / "model.safetensors"
    try:
        meta = json.loads((folder / "config.json").read_text())
        data = file.read_bytes()
        expected = meta["sha256"]
        network, config = meta["network"], meta["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"weights {folder} do not read ({error!r}); restore or retrain them") from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise WeightsError(f"{file} was altered: expected sha256 {expected[:16]}…, got {found[:16]}…; restore the file")
    if folder.parent == SHIPPED and found != SHA256.get(folder.name):
        known = SHA256.get(folder.name, "none")
        raise WeightsError(
            f"{file} is not the one that this version ships: expected sha256 {known[:16]}…, got {found[:16]}…; install "
            "anonymousnet again (who ships new weights writes their hash into weights/hashes.py)"
        )
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WeightsError(f"{file} is not a safetensors file: {error}") from error
    return Weights(folder.name, network, config, found, tensors, meta.get("notes", {}))


def sha256_of(name: str) -> str:
    """What config.json says of the file; `read` is what checks it. Raises WeightsError."""
    folder = folder_of(name)
    try:
        return str(json.loads((folder / "config.json").read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"weights {folder} do not read ({error!r}); restore or retrain them") from error


def write(
    folder: Path, network: str, config: dict[str, Any], state: Mapping[str, Tensor], notes: Mapping[str, Any]
) -> str:
    """Write fp16 safetensors and config.json into `folder`; returns the file's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    data = save(halves)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "model.safetensors").write_bytes(data)
    meta = {"network": network, "config": config, "sha256": digest, "notes": dict(notes)}
    (folder / "config.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
    return digest


def named(kind: type[nn.Module]) -> str:
    """What a config.json calls an architecture."""
    return next(name for name, (network, _) in NETWORKS.items() if network is kind)


def build(weights: Weights, kind: type[Net]) -> Net:
    """The network of verified weights, float32, in evaluation mode: `build(read("attributes"), Classifier)`.

    Raises WeightsError when they are of another architecture than `kind`, or do not fit it.
    """
    wanted = named(kind)
    if weights.network != wanted:
        raise WeightsError(f"weights {weights.name}: expected a {wanted}, got a {weights.network}; check the setting")
    try:
        net = kind(NETWORKS[wanted][1].model_validate(weights.config))
        own = net.state_dict()
        lacking = {k: own[k] for k in getattr(kind, "optional", ())}
        given = {k: v.float() if v.is_floating_point() else v for k, v in weights.tensors.items()}
        net.load_state_dict({**lacking, **given})
    except (ValidationError, RuntimeError) as error:
        raise WeightsError(f"weights {weights.name} do not fit a {wanted}: {str(error).splitlines()[0]}") from error
    return net.eval().requires_grad_(False)


def tensor(weights: Weights, name: str) -> Tensor:
    """One float32 tensor of verified weights that are no network, such as the universal perturbation."""
    if name not in weights.tensors:
        raise WeightsError(f"weights {weights.name}: expected a tensor '{name}', got {sorted(weights.tensors)}")
    return weights.tensors[name].float()
