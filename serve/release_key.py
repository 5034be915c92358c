"""The release key on the machines of a service: the same on all of them, and never sent to any."""

from __future__ import annotations

from anonymousnet.config import Config
from anonymousnet.privacy.release_key import ReleaseKey
from anonymousnet.privacy.release_key import mark_of as mark_of


def load_the_key(config: Config, mark: bytes) -> bytes:
    """The release key of this machine, which must be the one that the service was started with.

    Raises ConfigError, PrivacyError.
    """
    return ReleaseKey(config.release.key_file, mark).value
