"""Losses as pure functions that return (loss, parts); parts are detached scalars for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Parts = dict[str, Tensor]


def attribute_loss(logits_B40: Tensor, truth_B40: Tensor, weights_40: Tensor | None = None) -> tuple[Tensor, Parts]:
    """Binary cross-entropy, mean over faces and attributes; `weights_40` weighs attributes."""
    loss = F.binary_cross_entropy_with_logits(logits_B40, truth_B40, weights_40)
    accuracy = ((logits_B40 > 0) == (truth_B40 > 0.5)).float().mean()
    return loss, {"attributes": loss.detach(), "accuracy": accuracy}


def cosines(embeddings_BD: Tensor, centres_ND: Tensor) -> Tensor:
    """Cosines B x N, float32; inputs need not be unit length."""
    return F.normalize(embeddings_BD.float()) @ F.normalize(centres_ND.float()).T


def arcface_loss(cosines_BN: Tensor, identities_B: Tensor, margin: float, scale: float) -> tuple[Tensor, Parts]:
    """Additive angular margin softmax (Deng et al., CVPR 2019, eq. 3) on the cosines to N identities' centres."""
    own = F.one_hot(identities_B, cosines_BN.shape[1]).bool()
    angles = torch.acos(cosines_BN[own].clamp(-1 + 1e-6, 1 - 1e-6))
    # Past pi the cosine would rise again and reward the wrong direction.
    logits = (
        cosines_BN.masked_scatter(own, torch.cos((angles + margin).clamp(max=torch.pi)).to(cosines_BN.dtype)) * scale
    )
    loss = F.cross_entropy(logits, identities_B)
    right = (cosines_BN.argmax(1) == identities_B).float().mean()
    return loss, {"arcface": loss.detach(), "train_rank1": right}


def verification_loss(cosines_B: Tensor, same: bool, threshold: float, weights_B: Tensor) -> Tensor:
    """Logistic loss of pairs of faces that a recogniser should place above its threshold (`same`) or below it, 0.1 of
    a cosine being one unit; weighted mean over pairs."""
    above = (cosines_B - threshold) / 0.1
    return (F.softplus(-above if same else above) * weights_B).mean()


def critic_loss(real_B: Tensor, fake_B: Tensor) -> tuple[Tensor, Parts]:
    """Non-saturating GAN loss of the critic (Goodfellow et al., 2014; the paper's eq. 1 from D's side)."""
    loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
    return loss, {"d_real": real_B.detach().mean(), "d_fake": fake_B.detach().mean()}


def generator_loss(fake_B: Tensor) -> tuple[Tensor, Parts]:
    """Non-saturating GAN loss of the generator."""
    loss = F.softplus(-fake_B).mean()
    return loss, {"g_adversarial": loss.detach()}


def r1_penalty(real_scores_B: Tensor, real_B3HW: Tensor) -> Tensor:
    """Mean squared gradient norm of the critic at real faces (Mescheder et al., ICML 2018, eq. 9; no gamma / 2)."""
    (gradient,) = torch.autograd.grad(real_scores_B.sum(), real_B3HW, create_graph=True)
    penalty: Tensor = gradient.float().square().sum((1, 2, 3)).mean()
    return penalty


def gradient_penalty(scores_B: Tensor, mixed_B3HW: Tensor) -> Tensor:
    """WGAN-GP: squared distance of the gradient norm from 1 (Gulrajani et al., NeurIPS 2017)."""
    (gradient,) = torch.autograd.grad(scores_B.sum(), mixed_B3HW, create_graph=True)
    penalty: Tensor = (gradient.float().flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def region_l1(painted: Tensor, target: Tensor, weight: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """(fine, coarse): mean absolute difference in the weighted region, per pixel and after `pool`x`pool` averaging.

    `weight`: 1HW, or B1HW where faces have regions of their own; so below.
    """
    difference = (painted - target) * weight / _share(weight)
    return difference.abs().mean(), F.avg_pool2d(difference, pool).abs().mean()


def _share(weight: Tensor) -> Tensor:
    """Mean weight of a region."""
    return weight.mean((-2, -1), keepdim=True)


def shape_distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference of two paintings in the region after 4x4 averaging, their overall colours aside."""
    difference = a - b
    colour = (difference * weight).mean((2, 3), keepdim=True) / _share(weight)
    return F.avg_pool2d((difference - colour) * weight / _share(weight), 4).abs().mean()


def tone_distance(painted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference of the region's overall colour, in each quarter of the face: skin tone and the side the
    light comes from, which the surroundings show."""
    difference = (painted - target) * weight / _share(weight)
    return F.adaptive_avg_pool2d(difference, 2).abs().mean()


def masked_hinge_loss(
    real_BHW: Tensor, fake_BHW: Tensor, real_places_BHW: Tensor, fake_places_BHW: Tensor
) -> tuple[Tensor, Parts]:
    """Hinge loss of a discriminator on maps of logits (Lim & Ye, 2017). Places: 1 where a region is seen, otherwise 0.

    Where a composite keeps the photo it counts as real, at half the weight: no head may condemn that, and the painter's
    gradient lies in the region and at its rim.
    """
    inside = mean_inside(F.relu(1 - real_BHW), real_places_BHW).mean()
    inside = inside + mean_inside(F.relu(1 + fake_BHW), fake_places_BHW).mean()
    outside = mean_inside(F.relu(1 - real_BHW), 1 - real_places_BHW).mean()
    outside = outside + mean_inside(F.relu(1 - fake_BHW), 1 - fake_places_BHW).mean()
    parts = {"real": mean_inside(real_BHW, real_places_BHW), "fake": mean_inside(fake_BHW, fake_places_BHW)}
    return inside + 0.5 * outside, {name: value.detach().mean() for name, value in parts.items()}


def mean_inside(values_BHW: Tensor, inside_BHW: Tensor) -> Tensor:
    """Mean over the places that are inside (1, otherwise 0), B; 0 where none is."""
    return (values_BHW * inside_BHW).sum((1, 2)) / inside_BHW.sum((1, 2)).clamp(min=1)


def perceptual_distance(painted: Sequence[Tensor], photo: Sequence[Tensor], spreads: Sequence[float]) -> Tensor:
    """Mean absolute difference of feature maps, each over its spread (standard deviation)."""
    triples = zip(painted, photo, spreads, strict=True)
    return torch.stack([(a.float() - b.float()).abs().mean() / spread for a, b, spread in triples]).mean()


def code_loss(read_BC: Tensor, code_BC: Tensor) -> tuple[Tensor, Parts]:
    """1 - cosine between the code a critic reads off a painted face and the code it was painted with
    (InfoGAN: Chen et al., NeurIPS 2016, in a scale-free form)."""
    cosine = F.cosine_similarity(read_BC, code_BC).mean()
    return 1 - cosine, {"code_cosine": cosine.detach()}
