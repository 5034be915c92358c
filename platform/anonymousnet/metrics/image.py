"""How good released faces look, and how much of their use is left.

Distances between sets of faces are measured in OUR feature space (the attribute classifier's trunk): own features, not
Inception. They compare methods here and cannot be compared with figures from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import kornia.metrics
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet.align.detect import Detection, Detector
from anonymousnet.align.region import FACE, Region
from anonymousnet.data.attributes import INDEX
from anonymousnet.device import Runner
from anonymousnet.metrics.identity import Rate, wilson
from anonymousnet.nets.classifier import Classifier

Faces = NDArray[np.uint8]
Features = NDArray[np.float64]
Points = list[NDArray[np.float32] | None]
"""Five landmarks (5, 2) of each face, None where no face is seen."""

FEATURES = "own features, not Inception"
SUBSETS = 100
"""Subsets whose estimates give KID's interval."""
EYES = (0, 1)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def likeness(sources_N3HW: Faces, released_N3HW: Faces, region: Region | None = FACE) -> tuple[Features, Features]:
    """(SSIM (N,), PSNR in dB (N,)) of faces in the region's bounding box, None: the whole crop (Wang et al., TIP 2004).

    Neither says that a face looks good, only how near it is to its source; PSNR of equal pictures is infinite.
    """
    box = (slice(None), slice(None), *(region.box(sources_N3HW.shape[-1]) if region else ()))
    similar, errors = [], []
    for start in range(0, len(sources_N3HW), 64):
        a, b = (torch.from_numpy(x[start : start + 64][box]).float() / 255 for x in (sources_N3HW, released_N3HW))
        similar.append(kornia.metrics.ssim(a, b, 11).mean((1, 2, 3)))
        errors.append((a - b).square().mean((1, 2, 3)))
    decibels = -10 * torch.log10(torch.cat(errors))
    return torch.cat(similar).double().numpy(), decibels.double().numpy()


def features(classifier: Classifier, faces_N3HW: Tensor, runner: Runner) -> Features:
    """Trunk features (N, C), averaged over space, of float faces in [-1, 1] at the classifier's size."""
    net = runner.place(classifier)
    pooled = runner(lambda faces: net.trunk(faces).mean((2, 3)), faces_N3HW)
    return np.asarray(pooled.double().numpy())


def kid(real_ND: Features, fake_MD: Features) -> Interval:
    """Kernel distance with the unbiased estimator and the kernel (x.y / D + 1)^3 (Binkowski et al., ICLR 2018).

    Can be below 0 where the sets are alike. The interval is that of subsets of half the size, scaled to the whole.
    """
    a, b, cross = _kernel(real_ND, real_ND), _kernel(fake_MD, fake_MD), _kernel(real_ND, fake_MD)
    n, m = len(real_ND), len(fake_MD)
    whole = _mmd(a, b, cross)
    source, parts = np.random.default_rng(0), []
    for _ in range(SUBSETS):
        i, j = source.choice(n, max(2, n // 2), False), source.choice(m, max(2, m // 2), False)
        parts.append(_mmd(a[np.ix_(i, i)], b[np.ix_(j, j)], cross[np.ix_(i, j)]))
    # Halves drawn without replacement vary about their mean as much as the whole varies about the truth.
    low, high = np.quantile(np.array(parts) - np.mean(parts), (0.025, 0.975))
    return Interval(whole, whole + float(low), whole + float(high))


def fid(real_ND: Features, fake_MD: Features) -> float:
    """Frechet distance between Gaussians fitted to both sets (Heusel et al., NeurIPS 2017). Biased for small sets."""
    mean = real_ND.mean(0) - fake_MD.mean(0)
    real, fake = np.cov(real_ND.T), np.cov(fake_MD.T)
    values, vectors = np.linalg.eigh(real)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ fake @ root)
    return float(mean @ mean + np.trace(real) + np.trace(fake) - 2 * np.sqrt(both.clip(0)).sum())


def detect(detector: Detector, faces_N3HW: Faces) -> Points:
    """Landmarks of the best detection in each crop."""
    found: Points = []
    for face in faces_N3HW:
        seen: list[Detection] = detector(np.ascontiguousarray(face.transpose(1, 2, 0)))
        found.append(seen[0].points_52 if seen else None)
    return found


def detection_rate(points: Points) -> Rate:
    """Share of crops in which a face was seen."""
    return wilson(sum(p is not None for p in points), len(points))


def landmark_error(before: Points, after: Points) -> float:
    """Mean distance of the detector's five points before and after, as a share of the distance between the eyes;
    over faces seen both times. NaN where there is none."""
    errors = []
    for a, b in zip(before, after, strict=True):
        if a is not None and b is not None:
            eyes = float(np.linalg.norm(a[EYES[0]] - a[EYES[1]]))
            errors.append(float(np.linalg.norm(a - b, axis=1).mean()) / max(eyes, 1e-6))
    return float(np.mean(errors)) if errors else float("nan")


def agreement(read_N40: NDArray[np.bool_], said_N40: NDArray[np.bool_], region: Region = FACE) -> NDArray[np.bool_]:
    """(N, A) whether the classifier reads each released attribute of the painted region off the released face."""
    inside = [INDEX[name] for name in region.inside]
    return np.asarray((read_N40 == said_N40)[:, inside])


def _kernel(a: Features, b: Features) -> Features:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _mmd(aa: Features, bb: Features, ab: Features) -> float:
    """Unbiased squared maximum mean discrepancy: the diagonals are left out."""
    n, m = len(aa), len(bb)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())
