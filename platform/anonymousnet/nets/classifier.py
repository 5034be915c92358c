"""Stage I's networks: a face -> 40 attribute logits, and the same from what surrounds it alone."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.align.region import FACE
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.draw import Dropout
from anonymousnet.nets.trunk import Trunk


class ClassifierConfig(BaseModel):
    """Shape of the classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 32


class Classifier(nn.Module):
    """B3HW in [-1, 1], H = W = px -> B40 logits; sigmoid(logits / temperature) are the probabilities, and above its
    threshold an attribute counts as there."""

    optional = ("threshold_40",)
    """Tensors that older weights lack."""
    temperature_40: Tensor
    threshold_40: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.width)
        self.dropout = Dropout(0.2)
        self.head = nn.Linear(self.trunk.channels, len(ATTRIBUTES))
        self.register_buffer("temperature_40", torch.ones(len(ATTRIBUTES)))
        self.register_buffer("threshold_40", torch.full((len(ATTRIBUTES),), 0.5))

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.trunk(faces_B3HW).mean((2, 3))))
        return logits

    def probabilities(self, faces_B3HW: Tensor) -> Tensor:
        """Calibrated probabilities, float32 B40 in [0, 1] (Guo et al., ICML 2017: one temperature per attribute)."""
        return self.calibrated(self(faces_B3HW))

    def calibrated(self, logits_B40: Tensor) -> Tensor:
        """Probabilities of logits, on the logits' device."""
        return torch.sigmoid(logits_B40.float() / self.temperature_40.to(logits_B40.device))

    def says(self, probabilities_B40: Tensor) -> Tensor:
        """Yes or no (bool B40) to probabilities, on their device."""
        return probabilities_B40 > self.threshold_40.to(probabilities_B40.device)


class Surroundings(Classifier):
    """The same, blind to the region that is painted anew: what hair, neck and clothes show to anybody who sees a
    release. It blanks the face's region itself, whatever it is handed."""

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        return super().forward(FACE.pixelated(faces_B3HW, 0))
