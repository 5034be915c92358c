"""Deep Alignment Network (Kowalski, Naruniec & Trzcinski, CVPRW 2017): an aligned crop -> 68 landmarks.

Every stage sees the whole face, not patches around landmarks: it moves the current landmarks to the mean shape by a
similarity, warps the crop along, and corrects them there, told where they are by a heatmap and what the stage before
had seen by a feature image. Ours folds 2x2 pixels into channels first and has a quarter of the paper's channels: at
full resolution, element-wise operations would eat a third of the time.

Landmarks are in continuous pixels of the crop (a pixel's centre is at + 0.5), in the order of iBUG 300-W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

FEATURES = 256
"""Width of the layer that a stage's correction and the next stage's feature image are read from."""


class DANConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 112
    """Side of the crop, a multiple of 16."""
    width: int = 32
    """Channels at half the crop's side (the paper: 128); doubled after each of the first two of three poolings."""
    stages: int = 2


class Stage(nn.Module):
    """One stage's network: (B, C, px, px) -> features (B, 256) and a correction of the landmarks (B, 68, 2)."""

    def __init__(self, channels: int, config: DANConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        channels *= 4
        for i in range(3):
            for _ in range(2):
                layers += [nn.Conv2d(channels, channels := config.width << i, 3, 1, 1, bias=False)]
                layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
        self.trunk = nn.Sequential(*layers)
        self.features = nn.Linear(channels * (config.px // 16) ** 2, FEATURES)
        self.correction = nn.Linear(FEATURES, 68 * 2)
        nn.init.normal_(self.correction.weight, std=1e-3)  # every stage starts as "leave them where they are"
        nn.init.zeros_(self.correction.bias)
        self.px = config.px

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(self.features(self.trunk(x).flatten(1))).float()
        with exact(x):
            # In shares of the crop: a layer that had to learn pixels would need a hundred times the step.
            return features, self.correction(features).view(-1, 68, 2) * self.px


class DAN(nn.Module):
    """B3HW in [-1, 1], H = W = px -> landmarks of each stage, a list of (B, 68, 2) float32; the last is the answer."""

    mean_shape: Tensor

    def __init__(self, config: DANConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean_shape", mean_shape() * config.px)
        self.stages = nn.ModuleList(Stage(3 if i == 0 else 5, config) for i in range(config.stages))
        # The feature image is drawn at half the side and enlarged, as in the paper.
        half = (config.px // 2) ** 2
        self.images = nn.ModuleList(nn.Linear(FEATURES, half) for _ in range(config.stages - 1))

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        images = _standardised(images_B3HW)
        features, correction = self.stages[0](images)
        answers = [self.mean_shape + correction]
        for stage, draw in zip(list(self.stages)[1:], self.images, strict=True):
            side = self.config.px // 2
            feature = F.interpolate(F.relu(draw(features)).float().view(-1, 1, side, side), scale_factor=2)
            with exact(images):
                # A stage is told where the landmarks are, and does not learn the stage before through that: each has a
                # loss of its own, and the gradient of the heatmap's distances would be half of a training step.
                before = answers[-1].detach()
                matrix = fit_similarity(before, self.mean_shape.expand_as(before))
                moved = transform(matrix, before)
                seen = [warp(images, matrix), heatmap(moved, self.config.px), feature]
            features, correction = stage(torch.cat(seen, 1))
            with exact(images):
                answers.append(transform(invert(matrix), moved + correction))
        return answers


def mean_shape() -> Tensor:
    """(68, 2) float32, in shares of the crop."""
    return torch.tensor(MEAN_SHAPE, dtype=torch.float32).view(68, 2) / 1000


def exact(like: Tensor) -> torch.autocast:
    """No bf16 in here: at 100 pixels its steps are half a pixel."""
    return torch.autocast(like.device.type, enabled=False)


def _standardised(images: Tensor) -> Tensor:
    """Each image at mean 0 and deviation 1: neither dark photos nor dark skin should look like noise."""
    images = images.float()
    deviation, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
    return (images - mean) / (deviation + 0.05)


def fit_similarity(points_BL2: Tensor, target_BL2: Tensor) -> Tensor:
    """(B, 2, 3): the rotation, scale and shift that take the points closest to the target, by least squares."""
    centre, middle = points_BL2.mean(1), target_BL2.mean(1)
    z, w = points_BL2 - centre[:, None], target_BL2 - middle[:, None]
    spread = z.square().sum((1, 2)).clamp(min=1e-6)
    a = (z * w).sum((1, 2)) / spread
    b = (z[..., 0] * w[..., 1] - z[..., 1] * w[..., 0]).sum(1) / spread
    turn = torch.stack([torch.stack([a, -b], 1), torch.stack([b, a], 1)], 1)
    return torch.cat([turn, (middle - (turn @ centre[..., None])[..., 0])[..., None]], 2)


def invert(matrix_B23: Tensor) -> Tensor:
    """The inverses of similarities (B, 2, 3)."""
    turn = matrix_B23[..., :2]
    back = turn.transpose(1, 2) / turn[:, 0].square().sum(1).clamp(min=1e-6)[:, None, None]
    return torch.cat([back, -back @ matrix_B23[..., 2:]], 2)


def transform(matrix_B23: Tensor, points_BL2: Tensor) -> Tensor:
    """Points moved by similarities: (B, L, 2)."""
    return points_BL2 @ matrix_B23[..., :2].transpose(1, 2) + matrix_B23[:, None, :, 2]


def warp(images_BCHW: Tensor, matrix_B23: Tensor) -> Tensor:
    """The images moved along with their landmarks; beyond the edge it is 0, the mean."""
    px = images_BCHW.shape[-1]
    grid = transform(invert(matrix_B23), _centres(px, images_BCHW.device).expand(len(images_BCHW), -1, -1))
    grid = (grid * (2 / px) - 1).view(-1, px, px, 2)
    return F.grid_sample(images_BCHW, grid, "bilinear", "zeros", align_corners=False)


def heatmap(points_BL2: Tensor, px: int) -> Tensor:
    """(B, 1, px, px): 1 / (1 + distance to the nearest landmark, in pixels)."""
    centres = _centres(px, points_BL2.device)
    # |c - p|^2 = |c|^2 + |p|^2 - 2 c.p, about the middle: one product instead of px * px * L differences.
    c, p = centres - px / 2, points_BL2 - px / 2
    squares = torch.baddbmm(p.square().sum(2)[:, None], c.expand(len(p), -1, -1), p.transpose(1, 2), alpha=-2)
    nearest = (squares.amin(2) + c.square().sum(1)).clamp(min=1e-3)
    return (1 / (1 + nearest.sqrt())).view(-1, 1, px, px)


def _centres(px: int, device: torch.device) -> Tensor:
    """(px * px, 2): x, y of the pixels' centres, row by row."""
    line = torch.arange(px, dtype=torch.float32, device=device) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], 2).view(-1, 2)


def landmark_loss(answers_BL2: Tensor, target_BL2: Tensor) -> Tensor:
    """Mean distance between answer and truth, as a share of the distance between the true eyes. Scalar.

    The paper's loss and its measure. Both (B, 68, 2), in the same pixels.
    """
    eyes = five_from_68(target_BL2)
    apart = (eyes[:, 0] - eyes[:, 1]).norm(dim=1).clamp(min=1)
    loss: Tensor = ((answers_BL2 - target_BL2).norm(dim=2).mean(1) / apart).mean()
    return loss


def five_from_68(points_L2: Tensor) -> Tensor:
    """(..., 68, 2) -> (..., 5, 2): left eye, right eye, nose, left and right mouth corner, as the detector's five."""
    eyes = [points_L2[..., start : start + 6, :].mean(-2) for start in (36, 42)]
    return torch.stack([*eyes, *(points_L2[..., i, :] for i in (30, 48, 54))], -2)


# fmt: off
MEAN_SHAPE = (
    254, 526, 257, 591, 264, 655, 276, 719, 300, 779, 337, 831, 385, 875, 439, 911, 500, 921, 561, 911,
    615, 875, 663, 831, 700, 779, 724, 719, 736, 655, 743, 591, 746, 526, 301, 477, 332, 452, 374, 445,
    417, 452, 458, 469, 542, 469, 583, 452, 626, 445, 668, 452, 699, 477, 500, 517, 500, 560, 500, 602,
    500, 646, 453, 673, 475, 681, 500, 689, 525, 681, 547, 673, 350, 523, 377, 507, 409, 508, 436, 530,
    406, 535, 374, 535, 564, 530, 591, 508, 623, 507, 650, 523, 626, 535, 594, 535, 402, 748, 438, 734,
    474, 727, 500, 733, 526, 727, 562, 734, 598, 748, 564, 785, 528, 800, 500, 804, 472, 800, 436, 785,
    417, 751, 474, 749, 500, 752, 526, 749, 583, 751, 527, 768, 500, 771, 473, 768,
)
# fmt: on
"""x, y of the 68 landmarks in thousandths of the aligned crop: the mean of the teacher's answers on 348 aligned
CelebA faces that it was sure of, made symmetric. Every fit starts here, and (by `five_from_68`) alignment ends here."""
