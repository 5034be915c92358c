"""Folders on a disk and prefixes in S3 behind one face: list, read, put whole or not at all.

S3: credentials and region are those of the usual AWS variables, files or roles, of each machine that works; the
endpoint is given, or AWS_ENDPOINT_URL_S3's, or AWS_ENDPOINT_URL's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from anonymousnet.data.images import PHOTO_SUFFIXES
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import StorageError
from anonymousnet.pipelines.disk import Entry as Entry
from anonymousnet.pipelines.disk import Fetched as Fetched
from anonymousnet.pipelines.disk import Folder as Folder
from anonymousnet.pipelines.s3 import HELD, MISSING, code_of, explained, patiently
from anonymousnet.pipelines.s3 import client as _client

HURRIED, PATIENT = 0.0, 300.0
"""Seconds to wait for a server that is away or unwell: somebody waits for an answer, or a long job goes on."""
PART = 64 << 20
"""Bytes; larger objects are written in parts of this size."""


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

    def has(self, name: str) -> bool:
        """As Folder's."""
        return next((key for key, _ in self._list(name)), None) == ""  # of keys that begin so it is the first

    def begin(self, name: str, size: int) -> bytes:
        """As Folder's."""
        with explained(self, "read"):
            answer = self._do("get_object", Bucket=self.bucket, Key=self.prefix + name, Range=f"bytes=0-{size - 1}")
            return bytes(answer["Body"].read())

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

    def sweep(self) -> None:
        """As Folder's: nothing, for an upload has no name before it is whole."""

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
