"""Where a run keeps its checkpoints, records and weights: a folder, or a prefix in S3 with a folder in front of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs as pafs

from anonymousnet.errors import StorageError
from anonymousnet.pipelines.storage import filesystem_of

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
            return Path(self.uri)
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="anonymousnet-run-")
        return Path(self._scratch)

    def open(self) -> Path:
        """The folder, with what is in S3 already. Raises StorageError."""
        self.local.mkdir(parents=True, exist_ok=True)
        if "://" in self.uri:
            remote, path = filesystem_of(self.uri, self.endpoint_url)
            try:
                for file in self._listed(remote, path):
                    target = self.local / file.path[len(path) + 1 :]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    pafs.copy_files(file.path, str(target), source_filesystem=remote)
            except OSError as error:
                raise StorageError(f"cannot read {self.uri}: {error}; check the address and the credentials") from error
        return self.local

    def _listed(self, remote: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
        """The files in S3, without those of checkpoints that are not whole."""
        files = [
            info
            for info in remote.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
            if info.type == pafs.FileType.File
        ]
        whole = {info.path.rsplit("/", 1)[0] for info in files if info.base_name == FINAL}
        return [f for f in files if ".ckpt/" not in f.path or f.path.rsplit("/", 1)[0] in whole]

    def push(self) -> None:
        """Bring S3 up to date: what is new goes up, checkpoints that are gone here go. Raises StorageError."""
        if "://" not in self.uri:
            return
        remote, path = filesystem_of(self.uri, self.endpoint_url)
        files = sorted((p for p in self.local.rglob("*") if p.is_file()), key=lambda p: p.name == FINAL)
        try:
            for file in files:
                target = f"{path}/{file.relative_to(self.local).as_posix()}"
                there = remote.get_file_info(target)
                if ".ckpt/" not in target or there.type != pafs.FileType.File:
                    pafs.copy_files(str(file), target, destination_filesystem=remote)
            for info in remote.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True)):
                gone = not (self.local / info.path[len(path) + 1 :]).exists()
                if info.type == pafs.FileType.File and ".ckpt/" in info.path and gone:
                    remote.delete_file(info.path)
        except OSError as error:
            raise StorageError(f"cannot write {self.uri}: {error}; check the credentials and try again") from error
