"""All randomness of a release, derived from one secret key, so that a replay gives the same answer.

    secret = load_key(Path("~/.anonymousnet/key"))
    draw_key = derive(secret, "draw", release_name, photo_sha256)
    uniforms(draw_key, 40)                        # Stage II
    normals(derive(secret, "code", release_name, subject), 64)    # Stage III

Security. `derive` is HMAC-SHA256 (RFC 2104), a pseudo-random function: whoever lacks `secret` cannot tell its
outputs from independent random strings. Streams are SHAKE-256 over a key of fixed length (FIPS 202; prefix
keying is sound for a sponge, as in KMAC), so a stream tells nothing about its key, about other streams or
about its own other values. numpy's generators are deliberately not used: Philox and PCG64 are statistical,
not cryptographic, and a released photo may show part of the stream. The epsilon of Stage II is thus
computational: it holds against anyone who cannot break SHA-2 or SHA-3.

The same key gives the same bits on every machine: only integers, + - * / and sqrt are used, which IEEE 754
rounds alike everywhere; numpy's log and cos, which differ between processors, are not.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import claim_name, seal_file
from anonymousnet.errors import ConfigError, PrivacyError

KEY_BYTES = 32
"""Length of the secret key and of every derived key."""


def derive(secret: bytes, *labels: str | bytes) -> bytes:
    """32 bytes that only `secret` and these labels give: HMAC-SHA256 over the length-prefixed labels.

    Each label is preceded by its length (8 bytes, big-endian), so no two different lists of labels share an
    input. A str stands for its UTF-8 bytes.

    >>> derive(bytes(32), "a", "bc") == derive(bytes(32), "ab", "c")
    False
    >>> derive(bytes(32)).hex()[:16]                     # HMAC of the empty message under a zero key
    'b613679a0814d9ec'
    """
    parts = [label.encode() if isinstance(label, str) else bytes(label) for label in labels]
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(secret, message, hashlib.sha256).digest()


def uniforms(key: bytes, count: int) -> NDArray[np.float64]:
    """`count` float64 in [0, 1), multiples of 2^-53, from a 32-byte key. Asking for more only appends.

    >>> uniforms(bytes(32), 3)[:2].tolist() == uniforms(bytes(32), 2).tolist()
    True
    """
    words = np.frombuffer(_stream(key, b"uniforms", 8 * count), dtype="<u8")
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(key: bytes, count: int) -> NDArray[np.float32]:
    """`count` standard normal float32 (|x| < 6.4) from a 32-byte key. Asking for more only appends.

    Quantiles of 32-bit uniforms by Wichura's AS 241 (PPND7, relative error 1e-7).
    """
    words = np.frombuffer(_stream(key, b"normals", 4 * count), dtype="<u4")
    return _normal_quantile((words.astype(np.float64) + 0.5) * 2.0**-32).astype(np.float32)


def _stream(key: bytes, domain: bytes, length: int) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}; make keys with derive()")
    return hashlib.shake_256(key + domain).digest(length)


def _normal_quantile(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal quantile of p in [2^-33, 1 - 2^-33] (Wichura 1988, Applied Statistics 37:477, PPND7)."""
    q = p - 0.5
    r = 0.180625 - q * q
    central = (
        q
        * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)
        / (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0)
    )
    tails = np.abs(q) > 0.425
    s = np.sqrt(-_log(0.5 - np.abs(q[tails]))) - 1.6
    tail = (((0.17023821103 * s + 1.3067284816) * s + 2.7568153900) * s + 1.4234372777) / (
        (0.12021132975 * s + 0.73700164250) * s + 1.0
    )
    central[tails] = np.where(q[tails] < 0, -tail, tail)
    return central


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm to 1e-11 of positive numbers, out of exactly rounded operations only."""
    mantissa, exponent = np.frexp(x)
    s = (mantissa - 0.7071067811865476) / (mantissa + 0.7071067811865476)
    square = s * s
    series = np.zeros_like(s)
    for odd in (15, 13, 11, 9, 7, 5, 3, 1):
        series = series * square + 1.0 / odd
    return (exponent - 0.5) * 0.6931471805599453 + 2.0 * s * series


def check_key(key: bytes) -> bytes:
    """The key itself. Raises PrivacyError unless it is 32 bytes: with fewer, or none, all could be guessed."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        found = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise PrivacyError(
            f"key: expected {KEY_BYTES} secret bytes, got {found}; make one with secrets.token_bytes({KEY_BYTES}) and "
            "keep it, or leave it out: release.key_file is used then"
        )
    return key


def load_key(path: Path, make: bool = True) -> bytes:
    """The 32 secret bytes at `path`, made from the system's generator with mode 0600 if the file is missing (`make`).

    Safe when many processes start at once: all get the same key. Whoever holds the file can undo every
    release made with it. As with PostgreSQL's keys, a file of root's may be readable by its group (Kubernetes
    mounts secrets so). Raises ConfigError where the path cannot be used, PrivacyError where the key is open
    to others or not 32 bytes.
    """
    path = resolve_path(path)
    try:
        if make and not path.exists():
            _create_key(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"key file {path}: expected a readable file, or a folder to make it in, got '{error.strerror}'; "
            "set release.key_file to a path this user may read and write"
        ) from error
    if status.st_mode & (0o037 if status.st_uid == 0 else 0o077):
        raise PrivacyError(
            f"key file {path}: expected mode 0600, got {status.st_mode & 0o777:04o}: others can read it, and "
            f"with it undo releases; run `chmod 600 {path}`, or make a new key if it may have been read"
        )
    if len(key) != KEY_BYTES:
        found = "more" if len(key) > KEY_BYTES else str(len(key))
        raise PrivacyError(
            f"key file {path}: expected {KEY_BYTES} bytes, got {found}; restore a backup, or remove it "
            "to start anew (photos released again under a new key then spend epsilon again)"
        )
    return key


def _create_key(path: Path) -> None:
    """Write a new key whole before it gets its name, so that no other process ever reads half of one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        seal_file(file, path)
        os.write(file, secrets.token_bytes(KEY_BYTES))
        os.fsync(file)
        claim_name(draft, path)  # where another process was first, its key is the key
    finally:
        os.close(file)
        draft.unlink(missing_ok=True)
