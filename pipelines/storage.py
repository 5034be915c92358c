"""Folders on a disk and prefixes in S3 behind one face: list, read, put whole or not at all.

S3: credentials and region are those of the usual AWS variables, files or roles, of each machine that works; the
endpoint is given, or AWS_ENDPOINT_URL_S3's, or AWS_ENDPOINT_URL's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from anonymousnet.data.images import PHOTO_SUFFIXES, find_photos
from anonymousnet.data.store import write_atomic
from anonymousnet.errors import StorageError

REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
}
FORBIDDEN = {"AccessDenied", "403", "AllAccessDisabled"}
MISSING = {"NoSuchKey", "404"}


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine's disk, or on one that all machines share."""

    root: Path

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
        write_atomic(self.root / name, data)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix of an S3 bucket."""

    bucket: str
    prefix: str
    """Empty, or ends with a slash."""
    endpoint_url: str | None

    def photos(self, below: str = "") -> list[tuple[str, int]]:
        """As Folder's."""
        found = self._list(f"{below}/" if below else "")
        return sorted((name, size) for name, size in found if _is_photo(name))

    def files(self, below: str) -> set[str]:
        """As Folder's."""
        return {f"{below}/{name}" for name, _ in self._list(f"{below}/")}

    def read(self, name: str) -> bytes:
        """One object. Raises FileNotFoundError when there is none (any more), StorageError for all else."""
        with _explained(self, "read"):
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read())

    def put(self, name: str, data: bytes) -> None:
        """One object by a single request, which is whole or not at all. Raises StorageError."""
        with _explained(self, "write"):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def everything(self) -> list[str]:
        """Names of all objects. Raises StorageError."""
        return [name for name, _ in self._list("")]

    def delete(self, name: str) -> None:
        """Delete one object; no error if there is none. Raises StorageError."""
        with _explained(self, "delete"):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def _list(self, below: str) -> Iterator[tuple[str, int]]:
        """(name relative to `below`, bytes) of every object under it."""
        start = self.prefix + below
        with _explained(self, "list"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=start):
                for entry in page.get("Contents", []):
                    yield entry["Key"][len(start) :], int(entry["Size"])

    @property
    def _client(self) -> Any:
        return _client(self.endpoint_url)


Storage = Folder | Bucket


def storage_of(uri: str, endpoint_url: str | None = None) -> Storage:
    """A local folder, or `s3://bucket/prefix`. Nothing is asked of the network yet. Raises StorageError."""
    if "://" not in uri:
        return Folder(Path(uri).expanduser().resolve())
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise StorageError(f"expected a folder or s3://bucket/prefix, got {uri}; check the address")
    prefix = prefix.strip("/")
    return Bucket(bucket, f"{prefix}/" if prefix else "", _endpoint(endpoint_url))


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


@lru_cache
def _client(endpoint_url: str | None) -> Any:
    """boto3's, one per process and endpoint."""
    import boto3
    from botocore.config import Config

    style = {"addressing_style": "path"} if endpoint_url else {}
    config = Config(
        connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=32, s3=style,
    )  # fmt: skip
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    # A session of its own: boto3's default one is not safe to make from several threads.
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


def _is_photo(key: str) -> bool:
    """By the same rules as find_photos."""
    path = PurePosixPath(key)
    return path.suffix.lower() in PHOTO_SUFFIXES and not any(part.startswith(".") for part in path.parts)


@contextmanager
def _explained(place: Bucket, verb: str) -> Iterator[None]:
    """boto3's errors as ours, in one line; an object that is not there as FileNotFoundError."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    where = f"s3://{place.bucket}/{place.prefix}"
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in MISSING:
            raise FileNotFoundError(where) from error
        raise StorageError(f"cannot {verb} {where}: {_remedy(place.bucket, verb, code, error)}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageError(
            f"cannot {verb} {where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except BotoCoreError as error:
        server = place.endpoint_url or "AWS"
        raise StorageError(
            f"cannot {verb} {where}: no answer from {server} ({type(error).__name__}); check the network and "
            "--endpoint-url or AWS_ENDPOINT_URL_S3"
        ) from error


def _remedy(bucket: str, verb: str, code: str, error: Exception) -> str:
    if code == "NoSuchBucket":
        return f"there is no bucket '{bucket}'; create it or check its name"
    if code in REFUSED:
        return f"the server refuses the credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in FORBIDDEN:
        return f"no permission ({code}); ask the bucket's owner for the right to {verb}, or check the credentials"
    return f"{' '.join(str(error).split())}; try again later"
