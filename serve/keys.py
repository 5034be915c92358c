"""API keys: a file of hashes, each with its policy.

    {"keys": {"acme": {"sha256": "...", "max_epsilon": 5, "min_strength": 1, "budget": 1000, "per_minute": 60}}}

A key is `an_NAME_` and 32 random bytes, so a plain SHA-256 of it cannot be guessed back (slow hashes are for what
people choose). The file is read again when it changes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import write_atomic
from anonymousnet.errors import ConfigError

NAME = r"[a-z0-9][a-z0-9-]{0,39}"


class ApiKey(BaseModel):
    """What the holder of a key may do; null: as the server's policy says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{NAME}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    max_epsilon: float | None = Field(None, gt=0)
    """Most epsilon of a photo, all its faces together, whatever settings it comes of. Then nothing is let out
    unprotected, and no bulk jobs are started."""
    min_strength: float | None = Field(None, ge=0, le=1)
    budget: float | None = Field(None, gt=0)
    """Most epsilon that all photos of this key may spend together."""
    per_minute: int | None = Field(None, ge=1)
    """Requests that work on a photo, in any 60 seconds."""
    buckets: tuple[Annotated[str, Field(pattern="^s3://[^/]+")], ...] | None = None
    """Of the places in serve.buckets those that bulk jobs of this key may read and write."""


class Keys:
    """The keys of a file."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError."""
        self.path = resolve_path(path)
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: dict[str, ApiKey] = {}
        self.all()

    def all(self) -> list[ApiKey]:
        """Every key there is now. Raises ConfigError where the file does not read."""
        try:
            status = self.path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._by_hash = {key.sha256: key for key in _read(self.path)}
                self._seen = seen
        except FileNotFoundError:
            raise ConfigError(f"no API keys at {self.path}; make one with `anonymousnet keys new NAME`") from None
        except OSError as error:
            raise ConfigError(f"cannot read API keys {self.path}: {error.strerror}; check its rights") from error
        return list(self._by_hash.values())

    def find(self, secret: str) -> ApiKey | None:
        """Whose key this is."""
        found = hashlib.sha256(secret.encode()).hexdigest()
        match = None
        for key in self.all():  # all of them, whichever it is: the time says nothing
            if hmac.compare_digest(key.sha256, found):
                match = key
        return match


def new_key(path: Path, name: str, **policy: Any) -> str:
    """Add a key to the file (made with mode 0600 if it is missing); the key itself, which nobody can show again.

    Raises ConfigError for a name that is taken or no name, or a policy that cannot be.
    """
    path = resolve_path(path)
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"key name '{name}': expected up to 40 of a-z, 0-9 and -; it is only a label")
    keys = {key.name: key for key in _read(path)} if path.exists() else {}
    if name in keys:
        raise ConfigError(f"there is a key '{name}' in {path}; take another name, or remove that one first")
    secret = f"an_{name}_{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"
    try:
        keys[name] = ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), **policy)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error
    _write(path, keys)
    return secret


def remove_key(path: Path, name: str) -> None:
    """Raises ConfigError where there is no such key."""
    path = resolve_path(path)
    keys = {key.name: key for key in _read(path)} if path.exists() else {}
    if name not in keys:
        raise ConfigError(f"no key '{name}' in {path}; `anonymousnet keys list` names them")
    del keys[name]
    _write(path, keys)


def _read(path: Path) -> list[ApiKey]:
    try:
        found = json.loads(path.read_bytes())["keys"]
        return [ApiKey(name=name, **policy) for name, policy in found.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"API keys {path} do not read ({str(error).splitlines()[0]}); restore the file") from error


def _write(path: Path, keys: dict[str, ApiKey]) -> None:
    body = {name: key.model_dump(exclude={"name"}, exclude_none=True) for name, key in sorted(keys.items())}
    write_atomic(path, (json.dumps({"keys": body}, indent=2) + "\n").encode(), private=True)
