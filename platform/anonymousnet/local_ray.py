"""Where a Ray of our own on this machine lives, and what must be set before it starts so that nobody else reaches it.

Ray itself is not imported here: whoever starts one passes the folder on.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import private_folder, seal_path, write_atomic
from anonymousnet.errors import PrivacyError

ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0 Ray takes this machine for 127.0.0.1, and all that it starts listens there alone (its mode for desktops). With
anything else it looks up the machine's own address, whatever address it is given, and listens on all interfaces."""


def keep_private() -> Path:
    """Prepare this process to start a Ray that listens on loopback and asks for a token; the folder for its sessions.

    The folder lies in one of mode 0700, for Ray opens its own to everybody; the token's file gets mode 0600.
    Raises ConfigError where no home folder is known, StorageError, PrivacyError where either cannot be private.
    """
    os.environ[ONE_MACHINE] = "0"
    os.environ.pop("RAY_AUTH_MODE", None)  # unset, Ray asks for a token; set, it may say otherwise
    _seal_token()
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    home = private_folder(base / f"anonymousnet-{os.getuid()}")
    if home.stat().st_uid != os.getuid():
        raise PrivacyError(f"{home}: expected a folder of ours, got one of user {home.stat().st_uid}; set RAY_TMPDIR")
    return home / "ray"


def _seal_token() -> None:
    """See that Ray's token is there, and nobody else's to read. Ray would write it with the mode of any file."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = resolve_path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    if not path.exists():
        write_atomic(path, secrets.token_hex(32).encode(), replace=False, private=True)
    seal_path(path)
