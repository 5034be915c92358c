"""The release key on many machines: it stays in its file, and what travels is where that is and the key's mark.

key = ReleaseKey.open(config.release.key_file)      # the driver: made if it is missing
key.value                                           # there, and wherever a pickle of `key` arrives
"""

from __future__ import annotations

import socket
from pathlib import Path

from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import ConfigError
from anonymousnet.privacy.randomness import derive, load_key


class ReleaseKey:
    """A release key by its file. A pickle of it holds the path and the mark, never the key."""

    __slots__ = ("_value", "file", "mark")

    def __init__(self, file: Path, mark: bytes) -> None:
        """`mark`: of the key that must stand there, as `mark_of` says."""
        self.file, self.mark = file, mark
        self._value: bytes | None = None

    @classmethod
    def open(cls, file: Path) -> ReleaseKey:
        """The key of this machine, made if it is missing. Raises ConfigError, PrivacyError as `load_key`."""
        value = load_key(file)
        key = cls(file, mark_of(value))
        key._value = value
        return key

    @property
    def value(self) -> bytes:
        """32 secret bytes, read from this machine's file once.

        Raises ConfigError where the file is missing or holds another key, PrivacyError where others can read it.
        """
        if self._value is None:
            self._value = self._read()
        return self._value

    def _read(self) -> bytes:
        path, host = resolve_path(self.file), socket.gethostname()
        if not path.exists():
            raise ConfigError(
                f"key file {path}: expected the release key of mark {self.mark.hex()[:8]} on {host}, found none; put "
                "the same file on every machine, mode 0600: the key itself is never sent"
            )
        value = load_key(path, make=False)
        if (found := mark_of(value)) != self.mark:
            raise ConfigError(
                f"key file {path}: expected the key of mark {self.mark.hex()[:8]} on {host}, found another one of mark "
                f"{found.hex()[:8]}, which would give other photos; put the same file on every machine"
            )
        return value

    def __reduce__(self) -> tuple[type[ReleaseKey], tuple[Path, bytes]]:
        return ReleaseKey, (self.file, self.mark)

    def __repr__(self) -> str:
        return f"ReleaseKey(mark={self.mark.hex()[:8]})"


def mark_of(key: bytes) -> bytes:
    """What tells whether two machines have the same key, 32 bytes; it gives no hint of the key."""
    return derive(key, "serve")
