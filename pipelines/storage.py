"""Folders on a disk and prefixes in S3 behind one face: list, read, put whole or not at all.

S3: credentials and region are those of the usual AWS variables, files or roles, of each machine that works; the
endpoint is given, or AWS_ENDPOINT_URL_S3's, or AWS_ENDPOINT_URL's.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from anonymousnet.data.images import PHOTO_SUFFIXES, find_photos
from anonymousnet.data.paths import resolve_path
from anonymousnet.data.store import make_folders, write_atomic
from anonymousnet.errors import StorageError
from anonymousnet.pipelines.s3 import HELD, MISSING, code_of, explained, patiently
from anonymousnet.pipelines.s3 import client as _client

HURRIED, PATIENT = 0.0, 300.0
"""Seconds to wait for a server that is away or unwell: somebody waits for an answer, or a long job goes on."""
PART = 64 << 20
"""Bytes; larger objects are written in parts of this size."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as it is listed."""

    name: str
    size: int
    """Bytes."""
    version: str
    """ETag, or the file's size and time of change: other bytes have another."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object as it was read."""

    data: bytes
    version: str
    encryption: Mapping[str, str]
    """How the server encrypts it, in the words of a put request."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine's disk, or on one that all machines share."""

    root: Path
    private: bool = False
    """Whether what is written is for its owner alone."""

    def photos(self, below: str = "") -> list[tuple[str, int]]:
        """(name relative to `below`, bytes) of every photo in it, sorted by name. Raises StorageError."""
        top = self.root / below
        if not below and not top.is_dir():
            raise StorageError(f"no such folder: {top}; check the path")
        if not top.is_dir():
            return []
        try:
            return sorted((path.relative_to(top).as_posix(), path.stat().st_size) for path in find_photos(top))
        except OSError as error:
            raise StorageError(f"cannot list {top}: {error.strerror}; give a folder that you may read") from error

    def files(self, below: str) -> set[str]:
        """Names, relative to the root, of the files directly in `below`. Raises StorageError."""
        top = self.root / below
        try:
            return {f"{below}/{path.name}" for path in top.iterdir()} if top.is_dir() else set()
        except OSError as error:
            raise StorageError(f"cannot list {top}: {error.strerror}; give a folder that you may read") from error

    def read(self, name: str) -> bytes:
        """One file. Raises OSError when this one cannot be read."""
        return (self.root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Write one file, whole or not at all. Raises StorageError."""
        write_atomic(self.root / name, data, private=self.private)

    def scan(self, after: str = "", below: str = "") -> Iterator[Entry]:
        """Every file below `below`, hidden ones too, from behind `after` on, in an order of its own.

        Linked folders are not entered; linked files count only if they lie inside. Raises StorageError.
        """
        top = self.root / below
        if not below and not top.is_dir():
            raise StorageError(f"no such folder: {top}; check the path")
        if not top.is_dir():
            return
        try:
            yield from _walk(top, top.resolve(), tuple(PurePosixPath(after).parts), "")
        except OSError as error:
            raise StorageError(f"cannot list {top}: {error.strerror}; give a folder that you may read") from error

    def fetch(self, name: str, version: str | None = None) -> Fetched:
        """One file. Raises FileNotFoundError when it is gone or no longer of this version, OSError for all else."""
        found = _version(self.root / name)
        if version is not None and found != version:
            raise FileNotFoundError(name)
        return Fetched((self.root / name).read_bytes(), found, {})

    def create(
        self, name: str, data: bytes, content_type: str = "", encryption: Mapping[str, str] | None = None
    ) -> bool:
        """Write one file where there is none yet; False if there is one. Raises StorageError."""
        return write_atomic(self.root / name, data, replace=False, private=self.private)

    def swap(self, name: str, data: bytes, version: str | None) -> str | None:
        """Put one file in the place of this version of it (None: of no file); its new version, or None if another was
        there. Raises StorageError.
        """
        path = self.root / name
        try:
            make_folders(path.parent, self.private)
            with open(os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o600), "rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if (_version(path) if path.exists() else None) != version:
                    return None
                write_atomic(path, data, private=self.private)
                return _version(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}; check the permissions") from error


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of an S3 bucket."""

    bucket: str
    prefix: str
    """Empty, or ends with a slash."""
    endpoint_url: str | None
    patience: float = HURRIED

    def photos(self, below: str = "") -> list[tuple[str, int]]:
        """As Folder's."""
        found = self._list(f"{below}/" if below else "")
        return sorted((name, size) for name, size in found if _is_photo(name))

    def files(self, below: str) -> set[str]:
        """As Folder's."""
        return {f"{below}/{name}" for name, _ in self._list(f"{below}/")}

    def read(self, name: str) -> bytes:
        """One object. Raises FileNotFoundError when there is none (any more), StorageError for all else."""
        with explained(self, "read"):
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read())

    def put(self, name: str, data: bytes) -> None:
        """One object by a single request, which is whole or not at all. Raises StorageError."""
        with explained(self, "write"):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def everything(self) -> list[str]:
        """Names of all objects. Raises StorageError."""
        return [name for name, _ in self._list("")]

    def delete(self, name: str) -> None:
        """Delete one object; no error if there is none. Raises StorageError."""
        with explained(self, "delete"):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def scan(self, after: str = "", below: str = "") -> Iterator[Entry]:
        """Every object below `below` in the order of their keys, from behind `after` on, page by page."""
        start = self.prefix + below
        where = {"Bucket": self.bucket, "Prefix": start, **({"StartAfter": start + after} if after else {})}
        with explained(self, "list"):
            while True:
                page = self._do("list_objects_v2", **where)
                for entry in page.get("Contents", []):
                    yield Entry(entry["Key"][len(start) :], int(entry["Size"]), entry["ETag"])
                if not page.get("IsTruncated"):
                    return
                where["ContinuationToken"] = page["NextContinuationToken"]

    def fetch(self, name: str, version: str | None = None) -> Fetched:
        """As Folder's; a connection cut in the middle of the body is tried again."""
        expected = {"IfMatch": version} if version else {}

        def get() -> Fetched:
            answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + name, **expected)
            kept = {key: answer[key] for key in ("ServerSideEncryption", "SSEKMSKeyId") if answer.get(key)}
            return Fetched(bytes(answer["Body"].read()), answer["ETag"], kept)

        with explained(self, "read"):
            return patiently(get, max(self.patience, 5))

    def create(
        self, name: str, data: bytes, content_type: str = "", encryption: Mapping[str, str] | None = None
    ) -> bool:
        """As Folder's: of many who try at once, one wins."""
        from botocore.exceptions import ClientError

        kind = {"ContentType": content_type} if content_type else {}
        with explained(self, "write"):
            try:
                self._upload(self.prefix + name, data, {**kind, **(encryption or {})})
            except ClientError as error:
                if code_of(error) in HELD:
                    return False
                raise
        return True

    def swap(self, name: str, data: bytes, version: str | None) -> str | None:
        """As Folder's."""
        from botocore.exceptions import ClientError

        expected = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        with explained(self, "write"):
            try:
                answer = self._do("put_object", Bucket=self.bucket, Key=self.prefix + name, Body=data, **expected)
            except ClientError as error:
                if code_of(error) in HELD | MISSING:
                    return None
                raise
        return str(answer["ETag"])

    def _upload(self, key: str, data: bytes, how: dict[str, str]) -> None:
        """Write where nothing is yet: in one request, or in parts that appear together."""
        where = {"Bucket": self.bucket, "Key": key}
        if len(data) <= PART:
            self._do("put_object", Body=data, IfNoneMatch="*", **where, **how)
            return
        upload = {**where, "UploadId": self._do("create_multipart_upload", **where, **how)["UploadId"]}
        try:
            parts = []
            for number, start in enumerate(range(0, len(data), PART), 1):
                done = self._do("upload_part", Body=data[start : start + PART], PartNumber=number, **upload)
                parts.append({"ETag": done["ETag"], "PartNumber": number})
            self._do("complete_multipart_upload", MultipartUpload={"Parts": parts}, IfNoneMatch="*", **upload)
        except BaseException:
            self._client.abort_multipart_upload(**upload)  # parts left behind cost money for ever
            raise

    def _do(self, operation: str, **arguments: Any) -> Any:
        return patiently(lambda: getattr(self._client, operation)(**arguments), self.patience)

    def _list(self, below: str) -> Iterator[tuple[str, int]]:
        """(name relative to `below`, bytes) of every object under it."""
        return ((entry.name, entry.size) for entry in self.scan(below=below))

    @property
    def _client(self) -> Any:
        return _client(self.endpoint_url)


Storage = Folder | Bucket


def storage_of(uri: str, endpoint_url: str | None = None, patience: float = HURRIED) -> Storage:
    """A local folder, or `s3://bucket/prefix`. Nothing is asked of the network yet. Raises StorageError."""
    if "://" not in uri:
        return Folder(Path(os.path.realpath(resolve_path(uri))))  # compared with others: links are followed
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise StorageError(f"expected a folder or s3://bucket/prefix, got {uri}; check the address")
    prefix = prefix.rstrip("/")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise StorageError(
            f"expected s3://bucket/prefix without empty parts, `.` and `..`, got {uri}; write it plainly"
        )
    return Bucket(bucket, f"{prefix}/" if prefix else "", _endpoint(endpoint_url), patience)


def filesystem_of(uri: str, endpoint_url: str | None = None) -> tuple[pafs.FileSystem, str]:
    """The same place as pyarrow sees it: (filesystem, path within it). Raises StorageError."""
    place = storage_of(uri, endpoint_url)
    if isinstance(place, Folder):
        return pafs.LocalFileSystem(), str(place.root)
    options: dict[str, Any] = {"connect_timeout": 5, "request_timeout": 60}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    if place.endpoint_url:
        url = urlsplit(place.endpoint_url)
        options |= {"endpoint_override": url.netloc, "scheme": url.scheme}
    return pafs.S3FileSystem(**options), f"{place.bucket}/{place.prefix}".rstrip("/")


def _endpoint(given: str | None) -> str | None:
    url = given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if url and not (url.startswith(("http://", "https://")) and urlsplit(url).netloc):
        raise StorageError(f"expected an endpoint such as http://host:port, got {url}; check --endpoint-url")
    return url


def _is_photo(key: str) -> bool:
    """By the same rules as find_photos, but that a name without a suffix is no photo: nothing of it is read here."""
    path = PurePosixPath(key)
    return path.suffix.lower() in PHOTO_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _walk(folder: Path, inside: Path, after: tuple[str, ...], name: str) -> Iterator[Entry]:
    """Files below a folder, each folder's by name; `name` is the folder's own, `after` what has been seen of it."""
    with os.scandir(folder) as listed:
        here = sorted(listed, key=lambda entry: entry.name)
    for entry in here:
        if after and entry.name < after[0]:
            continue
        seen = after[1:] if after and entry.name == after[0] else ()
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), inside, seen, f"{name}{entry.name}/")
        elif entry.is_file() and not (after and entry.name == after[0]):
            path = Path(entry.path)
            if not entry.is_symlink() or path.resolve().is_relative_to(inside):
                yield Entry(name + entry.name, entry.stat().st_size, _version(path))


def _version(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
