"""Task `embedder`: face recognition by ArcFace on identities (Deng et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.config import TrainConfig
from anonymousnet.metrics import identity
from anonymousnet.metrics.bootstrap import clustered
from anonymousnet.nets.embedder import Embedder, EmbedderConfig
from anonymousnet.training.augment import erase, flip, jitter, recolour
from anonymousnet.training.data import Batch, Contents, FaceTable
from anonymousnet.training.engine import Engine
from anonymousnet.training.losses import arcface_loss, cosines
from anonymousnet.training.task import Task

MARGIN, SCALE = 0.35, 24.0
"""Angular margin (radians) and softmax scale; smaller than the paper's 0.5 and 64, as each identity has five images."""


class Centres(nn.Module):
    """A direction per identity: embeddings B x D -> cosines B x N, float32.

    A module of its own, and not a bare parameter: ZeRO 3 gathers the weights of modules that are called.
    """

    def __init__(self, identities: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(identities, dimensions) * 0.05)

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        return cosines(embeddings_BD, self.weight)


class WithCentres(Embedder):
    """The embedder and the class centres it is trained against, so that one engine owns both."""

    def __init__(self, config: EmbedderConfig, identities: int) -> None:
        super().__init__(config)
        self.centres = Centres(identities, config.dimensions)

    def embedder_state(self) -> dict[str, Tensor]:
        """The embedder's tensors alone."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("centres.")}


class EmbedderTask(Task):
    """ArcFace over the training identities; validated on people it never saw."""

    name: ClassVar[str] = "embedder"
    weights: ClassVar[str] = "embedder"
    defaults: ClassVar[dict[str, Any]] = {
        "steps": 4000, "batch": 64, "lr": 1.5e-3, "ema": 0.998, "px": 128, "width": 32,
    }  # fmt: skip

    def __init__(self, config: TrainConfig, contents: Contents) -> None:
        super().__init__(config, contents)
        self.shape = EmbedderConfig(px=config.px or 128, width=config.width or 32)
        self.identities = contents.identities

    def networks(self) -> dict[str, nn.Module]:
        return {"embedder": self.started(WithCentres(self.shape, self.identities))}

    def train_step(self, batch: Batch, engines: Mapping[str, Engine], step: int) -> dict[str, Tensor]:
        engine = engines["embedder"]
        engine.module.train()
        faces = jitter(flip(batch.faces_B3HW), degrees=8, scale=0.12, shift=0.04)
        faces = erase(recolour(faces, 0.25, 0.3, 0.4), chance=0.4, largest=0.5)
        # The margin grows from nothing: at the start every angle is a right angle, and a full margin stalls training.
        margin = MARGIN * min(1.0, step / (0.3 * (self.config.steps or 1)))
        net = engine.module
        assert isinstance(net, WithCentres)
        embeddings = net(faces.contiguous(memory_format=torch.channels_last))
        loss, parts = arcface_loss(net.centres(embeddings), batch.identities_B, margin, SCALE)
        engine.step(loss)
        return {"loss": loss.detach(), **parts}

    def validate(self, networks: Mapping[str, nn.Module], held_out: FaceTable) -> dict[str, float]:
        return verification_scores(embed(networks["embedder"], held_out.faces_N3HW), held_out.identities_N)

    def export(self, networks: Mapping[str, nn.Module], folder: Path, notes: Mapping[str, Any]) -> None:
        net = networks["embedder"]
        assert isinstance(net, WithCentres)
        weights.write(folder, "embedder", self.shape.model_dump(), net.embedder_state(), notes)


def embed(net: nn.Module, faces_N3HW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit vectors (N, D) of uint8 faces; each is the mean over the face and its mirror image."""
    device = next(net.parameters()).device
    found = []
    for chunk in np.array_split(faces_N3HW, max(1, len(faces_N3HW) // 64)):
        faces = torch.from_numpy(chunk).to(device).float().div_(127.5).sub_(1)
        faces = faces.contiguous(memory_format=torch.channels_last)
        found.append(nn.functional.normalize(net(faces).float() + net(faces.flip(3)).float()).cpu())
    return torch.cat(found).numpy()


def verification_scores(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> dict[str, float]:
    """TAR at FAR 1e-2 and 1e-3 over all pairs, and rank-1 of each person's first image against the others'."""
    genuine = identity.genuine_scores(embeddings, identities)
    impostors = identity.impostor_scores(embeddings, identities)
    scores = {}
    for far in (1e-2, 1e-3):
        if len(impostors) * far >= 10 and len(genuine):
            scores[f"tar_at_far_{far:g}"] = identity.tar(genuine, identity.threshold_at(impostors, far)).value
    first = np.unique(identities, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(identities)), first)
    if len(rest):
        gallery, known = embeddings[rest], np.isin(identities[first], identities[rest])
        probes = first[known]
        rate = identity.rank_k(embeddings[probes], identities[probes], gallery, identities[rest], 1)
        scores |= {"rank1": rate.value, "rank1_chance": 1 / len(np.unique(identities[rest]))}
    return scores


def verification_by_subgroup(
    embeddings_ND: NDArray[np.float32], identities_N: NDArray[np.int64], groups: Mapping[str, NDArray[np.bool_]]
) -> list[dict[str, float | str]]:
    """A row per group (name -> members): TAR at the threshold that a share 1e-2 of ALL impostors exceeds, with its
    95 % interval over people, and the share of the group's own impostors that exceeds it. None with under 1,000
    impostors.
    """
    impostors = identity.impostor_scores(embeddings_ND, identities_N)
    if len(impostors) < 1000:
        return []
    limit = identity.threshold_at(impostors, 1e-2)
    rows: list[dict[str, float | str]] = []
    for name, members in groups.items():
        people, cosines = identities_N[members], embeddings_ND[members] @ embeddings_ND[members].T
        first, second = np.triu_indices(len(people), 1)
        same, accepted = people[first] == people[second], cosines[first, second] > limit
        rate = clustered(accepted[same], people[first][same])
        false_accepts = float(accepted[~same].mean()) if not same.all() else float("nan")
        rows.append({
            "subgroup": name, "pairs": float(rate.trials), "tar": rate.value, "tar_low": rate.low,
            "tar_high": rate.high, "false_accepts": false_accepts,
        })  # fmt: skip
    return rows
