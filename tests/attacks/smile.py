"""Is the hidden face smiling? Told from the five points that a manifest publishes for each face.

A logistic regression on the four numbers of the alignment and their products, trained on two thirds of the photos and
scored on the others: the area under the ROC curve, 0.5 for chance.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from anonymousnet.align.place import Grid
from anonymousnet.align.region import FACE
from anonymousnet.data.attributes import INDEX
from anonymousnet.data.celeba import CelebA
from anonymousnet.data.images import load_photo
from anonymousnet.privacy.randomness import derive
from tests.attacks.faces import PX, Aligner, Matrix, folder

PHOTOS = 1500
SIDE = 178.0
GRID = Grid((218, 178), PX, FACE)


def numbers(matrices_N23: Matrix) -> NDArray[np.float64]:
    """(N, 14): log side, angle, position, and all products of two of them."""
    x = np.array([GRID.axes(matrix, SIDE) for matrix in matrices_N23])
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    return np.concatenate([x, *(x[:, i : i + 1] * x[:, i:] for i in range(4))], 1)


def area(scores_N: NDArray[np.float64], truth_N: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a true one outranks a false one (Mann and Whitney, 1947)."""
    order = np.argsort(np.argsort(scores_N, kind="stable"), kind="stable")
    yes = int(truth_N.sum())
    return float((order[truth_N].sum() - yes * (yes - 1) / 2) / (yes * (len(truth_N) - yes)))


def told(x: NDArray[np.float64], truth_N: NDArray[np.bool_], seed: int = 0) -> tuple[float, float, float]:
    """Area under the curve on the last third, and its 95 % interval over resampled photos."""
    split = 2 * len(x) // 3
    inputs, answers = torch.from_numpy(x), torch.from_numpy(truth_N.astype(np.float64))
    weights = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs[:split] @ weights[1:] + weights[0]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, answers[:split])
        value = value + 1e-3 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    scores, truth = (inputs[split:] @ weights[1:]).detach().numpy(), truth_N[split:]
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(truth), size=len(truth)) for _ in range(500)]
    low, high = np.quantile([area(scores[rows], truth[rows]) for rows in drawn], [0.025, 0.975])
    return area(scores, truth), float(low), float(high)


def main() -> None:
    part, align = CelebA.open(folder()).part("test"), Aligner()
    rows = np.random.default_rng(3).permutation(len(part))[:PHOTOS]
    poses = [(row, align(load_photo(part.path(int(row))).rgb)) for row in rows]
    found = [(row, pose) for row, pose in poses if pose is not None]
    matrices = np.array([pose for _, pose in found])
    truth = part.attributes[[row for row, _ in found], INDEX["Smiling"]]
    keys = [derive(bytes(32), str(row)) for row, _ in found]
    print(f"{len(found)} photos, {truth.mean():.2f} smiling; chance 0.5")
    for name, used in (("exact alignment", matrices), ("place", GRID.draw(matrices, keys))):
        value, low, high = told(numbers(used), truth)
        print(f"{name:<16} AUC {value:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
