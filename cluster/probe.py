"""What one machine says of itself. Sent to machines by value, so it must need nothing of AnonymousNet to be loaded."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.util
import os
import shutil
import time
from importlib import metadata
from typing import Any

PACKAGES = ("anonymousnet", "ray", "torch", "deepspeed", "numpy")


def probe(weights: list[str], bucket: str | None, endpoint_url: str | None) -> dict[str, Any]:
    """Versions, weights, GPUs, shared memory and the bucket, as this process sees them. Never raises."""
    return {
        "versions": {name: _version(name) for name in PACKAGES}, "source": _source(),
        "weights": {name: _weight(name) for name in weights}, "gpus": _gpus(),
        "shm": shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0,
        "bucket": None if bucket is None else _bucket(bucket, endpoint_url),
    }  # fmt: skip


def clock() -> float:
    """Seconds since the epoch."""
    return time.time()


def _version(name: str) -> str | None:
    # A wheel that Ray brought along (py_modules) has no metadata that importlib finds on every path.
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name).partition("+")[0]
    if importlib.util.find_spec(name) is None:
        return None
    return str(getattr(importlib.import_module(name), "__version__", "unknown"))


def _source() -> str:
    """Hash of the package's Python files: two builds of one version differ here."""
    spec = importlib.util.find_spec("anonymousnet")
    if spec is None or spec.origin is None:
        return ""
    root, whole = os.path.dirname(spec.origin), hashlib.sha256()
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.join(folder, name) for name in files if name.endswith(".py")]
    for path in sorted(found):
        whole.update(os.path.relpath(path, root).encode())
        with open(path, "rb") as file:
            whole.update(file.read())
    return whole.hexdigest()


def _weight(name: str) -> dict[str, str]:
    try:
        from anonymousnet.weights import read

        return {"sha256": read(name).sha256}
    except Exception as error:  # a broken installation raises anything, and that is the finding
        return {"error": " ".join(str(error).split())[:200]}


def _gpus() -> dict[str, Any]:
    found: dict[str, Any] = {
        "devices": len(glob.glob("/dev/nvidia[0-9]*")), "available": False, "why": "", "name": "", "nccl": "",
        "driver": "",
    }  # fmt: skip
    with contextlib.suppress(OSError), open("/proc/driver/nvidia/version") as file:
        found["driver"] = file.readline().split("Module")[-1].split()[0]
    try:
        import torch

        found["available"] = torch.cuda.is_available()
        if found["available"]:
            found["name"] = torch.cuda.get_device_name(0)
            found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        elif torch.version.cuda is None:
            found["why"] = "torch is built without CUDA"
        else:
            found["why"] = "no driver" if not found["driver"] else "the driver does not answer"
    except Exception as error:  # drivers and libraries that do not fit raise all sorts
        found["why"] = " ".join(str(error).split())[:200]
    return found


def _bucket(name: str, endpoint_url: str | None) -> dict[str, str]:
    try:
        from anonymousnet.pipelines.storage import HURRIED, storage_of

        next(storage_of(name, endpoint_url, HURRIED).scan(), None)
        return {"name": name, "error": ""}
    except Exception as error:  # boto3, botocore and our own
        return {"name": name, "error": " ".join(str(error).split())[:300]}
