"""Who may ask: API keys and their rates."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.handle import DeploymentHandle

from anonymousnet.config import Config
from anonymousnet.errors import ConfigError
from anonymousnet.serve.calls import by_value, call
from anonymousnet.serve.keys import ApiKey, Keys
from anonymousnet.serve.problems import Problem, Refused


def key_of(keys: Keys, authorization: str | None) -> ApiKey:
    """Whose key an Authorization header carries. Raises Problem."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Problem("no-key")
    try:
        found = keys.find(secret.strip())
    except ConfigError:
        raise Problem("unavailable") from None
    if found is None:
        raise Problem("bad-key")
    return found


class Gate:
    """Checks keys. Without a keys file everybody may, which the configuration allows on loopback only."""

    def __init__(self, config: Config, books: DeploymentHandle[Any]) -> None:
        """Raises ConfigError."""
        self.keys = Keys(config.serve.keys) if config.serve.keys else None
        self._books = by_value(books)
        self._left_s = config.serve.deadline_s
        self._counts = config.release.ledger is not None

    def key(self, authorization: str | None) -> ApiKey | None:
        """Whose key a request carries; None where none is needed. Raises Problem."""
        if self.keys is None:
            return None
        found = key_of(self.keys, authorization)
        if found.budget is not None and not self._counts:  # its budget came after the service had started
            raise Problem("policy", "this key has a budget, and the service keeps no ledger to count it")
        return found

    async def admit(self, key: ApiKey | None) -> None:
        """Count a request that works on a photo. Raises Problem when the key has made too many."""
        if key is None or key.per_minute is None:
            return
        wait: float | Refused = await call(self._books.admit, key.name, key.per_minute, left_s=self._left_s)
        if isinstance(wait, Refused):
            raise wait.problem()
        if wait > 0:
            raise Problem("rate", f"{key.per_minute} a minute are allowed", {"Retry-After": str(math.ceil(wait))})
