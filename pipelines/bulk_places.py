"""A job's three places (source, release, audit): apart from one another, there, and nobody else's."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from anonymousnet.data.paths import beside, resolve_path
from anonymousnet.data.store import check_regular, private_folder
from anonymousnet.errors import ConfigError, StorageError
from anonymousnet.pipelines.bulk_plan import address_of
from anonymousnet.pipelines.disk import DRAFTS
from anonymousnet.pipelines.manifest import MARKER
from anonymousnet.pipelines.s3 import open_to_strangers
from anonymousnet.pipelines.storage import HURRIED, PATIENT, Bucket, Folder, Storage, storage_of


def open_places(
    src: str | Path, dst: str | Path, audit: str | Path | None, endpoint_url: str | None
) -> tuple[Storage, Storage, Storage]:
    """Source, release and audit place, each of which can be listed; the mistakes that a look at them shows are told.

    Raises ConfigError (they overlap, the audit place is missing, the release holds other files), StorageError.
    """
    given = None if audit is None else os.fspath(audit)
    source, target, private = _places(os.fspath(src), os.fspath(dst), given, endpoint_url)
    _check_target(target)
    if isinstance(private, Folder):
        private_folder(private.root)
        private = replace(private, private=True)
    for place in (private, source):  # a mistake is told at once, an outage later on is waited out; and there are
        next(hurried(place).scan(), None)  # servers that make a bucket of any name, once something is put there
    if isinstance(private, Bucket) and (shown := open_to_strangers(private)):
        raise ConfigError(
            f"audit place {address_of(private)}: strangers can read this bucket ({shown}), and what undoes a release "
            "must not be there; choose a private one, or close it"
        )
    return source, target, private


def replace_name(place: Storage, name: str) -> Storage:
    """An object's address, in the form of a place."""
    if isinstance(place, Folder):
        return Folder(place.path / name)
    return replace(place, prefix=place.prefix + name)


def _places(src: str, dst: str, audit: str | None, endpoint_url: str | None) -> tuple[Storage, Storage, Storage]:
    """Source, release and audit place. Raises ConfigError where they overlap or the audit place is missing."""
    if audit is None:
        if "://" in dst:
            raise ConfigError(
                f"{dst} is in S3, so private evidence needs a place of its own; give --audit FOLDER, or --audit "
                "s3://bucket/prefix that the release's readers cannot read"
            )
        audit = str(beside(resolve_path(dst), "-private"))
    places = [storage_of(uri, endpoint_url, PATIENT) for uri in (src, dst, audit)]
    places[0] = _source(places[0])
    named = list(zip(("source", "release", "audit place"), places, strict=True))
    for i, (one, here) in enumerate(named):
        for other, there in named[i + 1 :]:
            if _within(here, there) or _within(there, here):
                raise ConfigError(
                    f"{one} {address_of(here)} and {other} {address_of(there)} overlap; give them places apart: a "
                    "release never mixes with its source, nor with private evidence"
                )
    return places[0], places[1], places[2]


def _source(place: Storage) -> Storage:
    """A folder as it is, one file of a folder by its name. Raises StorageError: there is nothing, or it is no file."""
    if isinstance(place, Bucket) or place.root.is_dir():
        return place
    try:
        check_regular(place.root, place.root.stat())
    except OSError as error:
        raise StorageError(f"no such photo or folder: {place.root} ({error.strerror}); check the path") from error
    return Folder(place.root.parent, only=place.root.name)


def hurried(place: Storage) -> Storage:
    """The same place, for somebody who waits for an answer."""
    return replace(place, patience=HURRIED) if isinstance(place, Bucket) else place


def _within(one: Storage, other: Storage) -> bool:
    """Whether `one` lies in `other`, or is it."""
    if isinstance(one, Bucket) and isinstance(other, Bucket):
        same = (one.bucket, one.endpoint_url) == (other.bucket, other.endpoint_url)
        return same and one.prefix.startswith(other.prefix)
    return isinstance(one, Folder) and isinstance(other, Folder) and one.path.is_relative_to(other.path)


def _check_target(target: Storage) -> None:
    """Refuse a place that holds anything but a job of ours, before the source is listed. Raises ConfigError."""
    place = hurried(target)
    if isinstance(place, Folder) and not place.root.exists():
        return
    # What a job that was killed left unfinished, before it had claimed the place, is nobody's.
    first = next((entry for entry in place.scan() if not entry.name.startswith(f"{DRAFTS}/")), None)
    if first is None:
        return
    try:
        json.loads(place.fetch(MARKER).data)["job"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{address_of(target)} holds other objects, such as {first.name}; a release never mixes with other files: "
            "choose an empty DST"
        ) from error
