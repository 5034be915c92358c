"""Stage I's network: a face -> 40 attribute logits."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.draw import Dropout
from anonymousnet.nets.trunk import Trunk


class ClassifierConfig(BaseModel):
    """Shape of the classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    px: int = 128
    width: int = 32


class Classifier(nn.Module):
    """B3HW in [-1, 1], H = W = px -> B40 logits; sigmoid(logits / temperature) are the probabilities."""

    temperature_40: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.width)
        self.dropout = Dropout(0.2)
        self.head = nn.Linear(self.trunk.channels, len(ATTRIBUTES))
        self.register_buffer("temperature_40", torch.ones(len(ATTRIBUTES)))

    def forward(self, faces_B3HW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.trunk(faces_B3HW).mean((2, 3))))
        return logits

    def probabilities(self, faces_B3HW: Tensor) -> Tensor:
        """Calibrated probabilities, float32 B40 in [0, 1] (Guo et al., ICML 2017: one temperature per attribute)."""
        return torch.sigmoid(self(faces_B3HW).float() / self.temperature_40)
