"""Stage I: predict the 40 attributes. The only stage that sees the face; it drops it when it is done."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F

from anonymousnet.device import Runner
from anonymousnet.faces import FaceBatch
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.fold import folded
from anonymousnet.stage import Stage


class Predict(Stage):
    """Classifier -> `probabilities_B40` and `read_B40`; `source_B3HW` ends here."""

    name: ClassVar[str] = "predict"
    needs: ClassVar[tuple[str, ...]] = ("source_B3HW",)
    gives: ClassVar[tuple[str, ...]] = ("probabilities_B40", "read_B40")

    def __init__(self, classifier: Classifier, runner: Runner) -> None:
        self.classifier = runner.place(folded(classifier))
        self.runner, self.form = runner, runner.form

    def apply(self, batch: FaceBatch) -> FaceBatch:
        px = self.classifier.config.px
        faces = batch.source_B3HW
        assert faces is not None  # `needs` holds it
        if faces.shape[-1] != px:
            faces = F.interpolate(faces, size=(px, px), mode="bilinear", antialias=True).clamp(-1, 1)
        probabilities = self.runner(self.classifier.probabilities, faces).to(torch.float32)
        read = self.classifier.says(probabilities)
        return batch.with_(probabilities_B40=probabilities, read_B40=read, source_B3HW=None)
