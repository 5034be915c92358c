"""The one signed statement over all of a release: what it holds, how it was made, and who says so.

    manifest.json   {"statement": {...}, "signature": hex, "public_key": hex}, Ed25519
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anonymousnet import __version__
from anonymousnet.errors import DataError
from anonymousnet.pipelines.bulk_plan import RESERVED, STATEMENT, Job
from anonymousnet.pipelines.software import software
from anonymousnet.privacy.randomness import derive

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT = 3
"""Version of the manifest; raise it with every change of its meaning. 2 had neither table nor report."""
MARKER = f"{RESERVED}/job.json"


def marker_of(job: Job) -> bytes:
    """The release's first object: whose place this is."""
    return json.dumps({"job": job.id, "made_by": "anonymousnet anonymize"}).encode()


def statement_of(
    job: Job, counts: Mapping[str, int], privacy: Mapping[str, Any], population: Mapping[str, Any],
    files: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """What is signed. `files`: SHA-256 of every file of the release that no row of its parts names."""
    return {
        "format": FORMAT, "job": job.id, "release": job.config.release.name, "code": software(),
        "version": __version__, "weights": job.weights, "precision": job.form,
        "configuration": public_configuration(job), "population": population, "counts": counts, "privacy": privacy,
        "files": dict(sorted(files.items())),
    }  # fmt: skip


def public_configuration(job: Job) -> dict[str, Any]:
    """Settings that shaped the release; of paths only the last part, since folders name people."""
    private = {"key_file", "ledger", "subjects", "budget"}
    tree = job.config.model_dump(
        mode="json",
        exclude={**dict.fromkeys(("train", "scale", "serve", "seed", "audit", "batch"), True), "release": private},
    )
    return {key: _bare(value) for key, value in tree.items()}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(leaf) for key, leaf in value.items()}
    return value.rsplit("/", 1)[-1] if isinstance(value, str) else value


def signing_key(secret: bytes) -> Ed25519PrivateKey:
    """The release key's own signing key; it tells nothing of the release key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(derive(secret, "sign"))


def signer_of(secret: bytes) -> str:
    """The public key, in hex: what a publisher tells those who verify."""
    return signing_key(secret).public_key().public_bytes_raw().hex()


def signed(statement: dict[str, Any], secret: bytes) -> bytes:
    """manifest.json: the statement with its signature, always the same for the same statement."""
    whole = {
        "statement": statement, "signature": signing_key(secret).sign(_canonical(statement)).hex(),
        "public_key": signer_of(secret),
    }  # fmt: skip
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def opened(data: bytes) -> tuple[dict[str, Any], str]:
    """(statement, signer's public key) of a manifest.json. Raises DataError unless its signature is sound."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        whole = json.loads(data)
        statement, public = whole["statement"], whole["public_key"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(whole["signature"]), _canonical(statement))
    except InvalidSignature as error:
        raise DataError(
            f"{STATEMENT}: its signature is wrong, it was changed after it was signed; trust none of it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{STATEMENT}: expected a signed statement, found something else; trust none of it") from error
    if statement.get("format") not in (2, FORMAT):
        raise DataError(f"{STATEMENT}: expected format {FORMAT}, got {statement.get('format')}; upgrade anonymousnet")
    return statement, public


def _canonical(statement: dict[str, Any]) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
