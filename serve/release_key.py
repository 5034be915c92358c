"""The release key on the machines of a service: the same on all of them, and never sent to any."""

from __future__ import annotations

from anonymousnet.config import Config
from anonymousnet.errors import ConfigError
from anonymousnet.privacy.randomness import derive, load_key


def load_the_key(config: Config, mark: bytes) -> bytes:
    """The release key of this machine, which must be the one that the service was started with.

    Raises ConfigError.
    """
    path = config.release.key_file.expanduser()
    key = load_key(path)
    if mark_of(key) != mark:
        raise ConfigError(
            f"key file {path}: this machine has another key than the one the service was started with, and would give "
            "other photos; put the same file on every machine"
        )
    return key


def mark_of(key: bytes) -> bytes:
    """What tells whether two machines have the same key; it gives no hint of the key."""
    return derive(key, "serve")
