"""Stage I: predict the 40 attributes, of the face and of its surroundings. The only stage that sees the face; it drops
it when it is done."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anonymousnet.device import Runner
from anonymousnet.faces import FaceBatch
from anonymousnet.nets.classifier import Classifier, Surroundings
from anonymousnet.nets.fold import folded
from anonymousnet.stage import Stage


class Predict(Stage):
    """Classifiers -> `probabilities_B40` and `read_B40` of the face, `shown_B40` of the context alone; `source_B3HW`
    ends here."""

    name: ClassVar[str] = "predict"
    needs: ClassVar[tuple[str, ...]] = ("source_B3HW",)
    gives: ClassVar[tuple[str, ...]] = ("probabilities_B40", "read_B40", "shown_B40")

    def __init__(self, classifier: Classifier, surroundings: Surroundings, runner: Runner) -> None:
        self.classifier, self.surroundings = (runner.place(folded(net)) for net in (classifier, surroundings))
        self.runner, self.form = runner, runner.form

    def apply(self, batch: FaceBatch) -> FaceBatch:
        assert batch.source_B3HW is not None  # `needs` holds it
        probabilities = self.probabilities(self.classifier, batch.source_B3HW)
        # Blank at every strength, and before resizing mixes pixels across the region's edge.
        context = torch.where(batch.region_B1HW > 0, 0.0, batch.context_B3HW)
        around = self.probabilities(self.surroundings, context)
        read, shown = self.classifier.says(probabilities), self.surroundings.says(around)
        return batch.with_(probabilities_B40=probabilities, read_B40=read, shown_B40=shown, source_B3HW=None)

    def probabilities(self, net: Classifier, faces_B3HW: Tensor) -> Tensor:
        """What one of its two networks says of faces in [-1, 1]: (B, 40), 0 to 1."""
        px = net.config.px
        if faces_B3HW.shape[-1] != px:
            faces_B3HW = F.interpolate(faces_B3HW, size=(px, px), mode="bilinear", antialias=True).clamp(-1, 1)
        return self.runner(net.probabilities, faces_B3HW).to(torch.float32)
