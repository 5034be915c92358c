"""How long the photos that are under way will take: for refusing at once what could not be answered in time."""

from __future__ import annotations

import time
from collections.abc import Callable

KEEP = 0.95
"""What a photo's time still counts for when the next one is answered: the last twenty decide."""


class Pace:
    """Photos under way, and the seconds in which the service answers one while it is busy.

    Seconds in which any photo was under way, over photos answered: that holds whatever the number of replicas, and
    however many photos a pass takes. Where little is asked it is the time of a lone photo, which is too long for many
    replicas, and mends itself as they answer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.under_way = 0
        self._clock, self._at = clock, clock()
        self._busy_s, self._answered = 0.0, 0.0

    def begin(self) -> None:
        self._tick()
        self.under_way += 1

    def end(self, answered: bool) -> None:
        """`answered`: not for photos that nobody worked on."""
        self._tick()
        self.under_way -= 1
        if answered:
            self._busy_s, self._answered = self._busy_s * KEEP, self._answered * KEEP + 1

    @property
    def wait_s(self) -> float:
        """How long one more photo is likely to take; 0 before the first is answered."""
        self._tick()
        return (self.under_way + 1) * self._busy_s / self._answered if self._answered else 0.0

    def _tick(self) -> None:
        now = self._clock()
        if self.under_way:
            self._busy_s += now - self._at
        self._at = now
