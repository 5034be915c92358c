"""The service's only writer: the privacy ledger, and how many requests each key has made."""

from __future__ import annotations

import time
from collections import defaultdict, deque

from anonymousnet.config import Config
from anonymousnet.errors import AnonymousNetError
from anonymousnet.privacy.ledger import Ledger, Spend
from anonymousnet.privacy.randomness import derive
from anonymousnet.serve.problems import Refused
from anonymousnet.serve.release_key import load_the_key

MINUTE = 60.0


class Books:
    """One replica, where the ledger's disk is: a file that many machines wrote would not be safe."""

    def __init__(self, config: Config, mark: bytes) -> None:
        self.config = config
        self._key = load_the_key(config, mark)
        release = config.release
        self.ledger = Ledger.of(release, self._key) if release.ledger else None
        self._asked: dict[str, deque[float]] = defaultdict(deque)

    def admit(self, key: str, per_minute: int) -> float:
        """0 if this key may make one more request now (it is counted), else the seconds until it may."""
        now, asked = time.monotonic(), self._asked[key]
        while asked and asked[0] <= now - MINUTE:
            asked.popleft()
        if len(asked) >= per_minute:
            return asked[0] + MINUTE - now
        asked.append(now)
        return 0.0

    def spend(self, spends: list[Spend]) -> Refused | None:
        """Write a photo's release down, or say why it may not be released."""
        if self.ledger is None:
            return None
        try:
            self.ledger.spend_many(spends)
        except AnonymousNetError as error:
            return Refused.of(error)
        return None

    def spent(self, subject: str | None, key: str | None) -> dict[str, float] | Refused:
        """Epsilon spent by a subject, on all faces of all their photos, and by all photos of a key."""
        if self.ledger is None:
            return {}
        try:
            found = {}
            if subject is not None:
                found["subject"] = self.ledger.spent(derive(self._key, "account", subject.encode()))
            if key is not None:
                found["key"] = self.ledger.spent(derive(self._key, "api key", key))
        except AnonymousNetError as error:
            return Refused.of(error)
        return found
