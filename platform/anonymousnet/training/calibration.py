"""Calibration of a finished classifier on faces it was not trained on: a temperature and a threshold per attribute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet import weights
from anonymousnet.config import Config
from anonymousnet.data.celeba import CelebA
from anonymousnet.device import Runner, autocast
from anonymousnet.errors import DataError
from anonymousnet.metrics.attributes import decision_thresholds, score_attributes
from anonymousnet.nets.classifier import Classifier
from anonymousnet.training.attributes import logits_of
from anonymousnet.training.data import FaceTable

BALANCE = 0.2
"""What balanced accuracy counts beside accuracy, when Stage I says yes or no."""
TEMPERATURES = np.geomspace(0.5, 2, 141)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What became of the weights, measured on the faces that they were calibrated on."""

    sha256: str
    faces: int
    before: dict[str, float]
    after: dict[str, float]


def calibrate_weights(folder: Path, data: Path, config: Config) -> Calibration:
    """Fit temperatures on CelebA's validation partition, set thresholds by the training partition's prevalences, and
    write both into the weights in `folder`. Raises WeightsError, DataError for an empty partition.
    """
    read = weights.read(str(folder))
    runner = Runner(config.device, config.precision, 64)
    net = runner.place(weights.build(read, Classifier))
    celeba = CelebA.open(data)
    part = celeba.part("validation")
    if not len(part):
        raise DataError(f"expected validation images in {data}, got none; check list_eval_partition.txt")
    table = FaceTable(part.faces(net.config.px), part.attributes, part.identities)
    with torch.inference_mode(), autocast(runner.device, runner.dtype):
        logits = logits_of(net, table)
    prevalence = celeba.part("train").attributes.mean(0)

    def scores() -> dict[str, float]:
        said = net.calibrated(logits).numpy(), part.attributes, prevalence > 0.5, net.threshold_40.cpu().numpy()
        return score_attributes(*said).means()

    before = scores()
    net.temperature_40.copy_(torch.from_numpy(fit_temperatures(logits.numpy(), part.attributes)))
    net.threshold_40.copy_(torch.from_numpy(decision_thresholds(prevalence, BALANCE)))
    after = scores()
    notes = {**read.notes, "calibration": {"faces": len(part), "balance": BALANCE, "scores": after}}
    sha256 = weights.write(folder, read.network, read.config, net.state_dict(), notes)
    return Calibration(sha256, len(part), before, after)


def fit_temperatures(logits_N40: NDArray[np.floating], truth_N40: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(40,) the temperature of each attribute under which its answers are likeliest (Guo et al., ICML 2017, 4.2)."""
    signed = np.where(truth_N40, logits_N40, -logits_N40).astype(np.float64)
    losses_T40 = np.stack([np.logaddexp(0, -signed / t).mean(0) for t in TEMPERATURES])
    return np.asarray(TEMPERATURES[losses_T40.argmin(0)])
