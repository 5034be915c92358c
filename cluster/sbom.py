"""A list of all that an image holds, in CycloneDX 1.5: packages and weights, each with its hashes.

    python -m anonymousnet.cluster.sbom > sbom.json

Made from the locks alone, so that it is the same on every machine.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

from anonymousnet import __version__
from anonymousnet.weights.hashes import SHA256

LOCKS = Path(__file__).with_name("templates") / "images"
_PACKAGE = re.compile(r"^([a-z0-9][a-z0-9.-]*)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", re.M)
_HASH = re.compile("sha256:([0-9a-f]{64})")


def locked(folder: Path = LOCKS) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Package -> its version, and the SHA-256 of each file that may be installed; of all locks together."""
    found = {}
    for lock in sorted(folder.glob("lock*.txt")):
        for name, version, hashes in _PACKAGE.findall(lock.read_text()):
            found[name] = (version, tuple(_HASH.findall(hashes)))
    return dict(sorted(found.items()))


def sbom() -> dict[str, Any]:
    """The list. Packages have several hashes: one for each kind of machine."""
    packages = [
        {
            "type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
        }
        for name, (version, hashes) in locked().items()
    ]  # fmt: skip
    networks = [
        {
            "type": "machine-learning-model", "name": f"anonymousnet/{name}", "version": __version__,
            "bom-ref": f"weights/{name}", "hashes": [{"alg": "SHA-256", "content": sha256}],
        }
        for name, sha256 in SHA256.items()
    ]  # fmt: skip
    components = packages + networks
    # The list's own name is a hash of what it lists.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1,
        "metadata": {"component": {"type": "application", "name": "anonymousnet", "version": __version__,
                                   "bom-ref": "anonymousnet"}},
        "components": components,
        "dependencies": [{"ref": "anonymousnet", "dependsOn": [one["bom-ref"] for one in components]}],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(sbom(), indent=1))
