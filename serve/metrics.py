"""What Prometheus scrapes, with Ray's prefix `ray_`. Nothing here says whose photo it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.serve import metrics

SECONDS: list[float] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
FACES: list[float] = [1, 2, 4, 8, 16, 32, 64, 128]


class Metrics:
    """One process's share of them."""

    def __init__(self) -> None:
        name = "anonymousnet_{}".format
        self._requests = metrics.Counter(name("requests_total"), "Requests answered.", ("route", "status"))  # type: ignore[arg-type]
        self._seconds = metrics.Histogram(name("request_seconds"), "Time to an answer.", SECONDS, ("route",))
        self._stage = metrics.Histogram(name("stage_seconds"), "Time of a pass.", SECONDS, ("stage",))
        self._batch = metrics.Histogram(name("batch_faces"), "Faces in a pass.", FACES, ("stage",))
        self._epsilon = metrics.Counter(name("epsilon_spent_total"), "Epsilon of released faces.")
        self._faces = metrics.Counter(name("faces_total"), "Faces released.")
        self._withheld = metrics.Counter(name("withheld_total"), "Photos not released.", ("reason",))

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def ran(self, stage: str, seconds: float, faces: int | None = None) -> None:
        self._stage.observe(seconds, {"stage": stage})
        if faces is not None:
            self._batch.observe(faces, {"stage": stage})

    def released(self, faces: int, epsilon: float) -> None:
        self._faces.inc(faces)
        if epsilon > 0:
            self._epsilon.inc(epsilon)

    def withheld(self, reason: str) -> None:
        self._withheld.inc(1, {"reason": reason})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time of a block, as a stage's."""
        started = time.perf_counter()
        yield
        self.ran(stage, time.perf_counter() - started)
