"""Where a run keeps its checkpoints, records and weights: a folder, or a prefix in S3 with a folder in front of it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import write_atomic
from anonymousnet.pipelines.storage import Bucket, storage_of

FINAL = "run.json"
"""A checkpoint without this file is not whole: it is written last and read first."""


@dataclass
class Home:
    """OUT of a run. Machines that do not share a disk need one in S3."""

    uri: str
    endpoint_url: str | None = None
    _scratch: str | None = field(default=None, repr=False)

    @property
    def local(self) -> Path:
        """The folder that is read and written."""
        if "://" not in self.uri:
            return resolve_path(self.uri)
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="anonymousnet-run-")
        return Path(self._scratch)

    def open(self) -> Path:
        """The folder, with what is in S3 already. Raises StorageError."""
        self.local.mkdir(parents=True, exist_ok=True)
        if remote := self._remote():
            for name in _whole(remote.everything()):
                if not (_in_checkpoint(name) and (self.local / name).exists()):
                    write_atomic(self.local / name, remote.read(name))
        return self.local

    def push(self) -> None:
        """Bring S3 up to date: what is new goes up, checkpoints that are gone here go. Raises StorageError."""
        remote = self._remote()
        if remote is None:
            return
        here = {p.relative_to(self.local).as_posix(): p for p in self.local.rglob("*") if p.is_file()}
        there = set(remote.everything())
        for name in sorted(here, key=lambda name: name.endswith(f"/{FINAL}")):
            if not (_in_checkpoint(name) and name in there):
                remote.put(name, here[name].read_bytes())
        for name in there - here.keys():
            if _in_checkpoint(name):
                remote.delete(name)

    def close(self) -> None:
        """Remove the folder in front of S3; what was pushed stays there. Nothing happens to a folder that is OUT."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _remote(self) -> Bucket | None:
        place = storage_of(self.uri, self.endpoint_url)
        return place if isinstance(place, Bucket) else None


def _in_checkpoint(name: str) -> bool:
    """Files of checkpoints never change once they are written; all others do."""
    return ".ckpt/" in name


def _whole(names: list[str]) -> list[str]:
    """Those names that are not of a checkpoint still being written, or half deleted; none that leads outside."""
    names = [name for name in names if ".." not in PurePosixPath(name).parts and not name.startswith("/")]
    whole = {name.rsplit("/", 1)[0] for name in names if name.endswith(f"/{FINAL}")}
    return [name for name in names if not _in_checkpoint(name) or name.rsplit("/", 1)[0] in whole]
