"""WebDataset's tars: members that share a name up to the first dot are one sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from itertools import count
from pathlib import PurePosixPath

from anonymousnet.config import BulkConfig
from anonymousnet.data.content import is_picture, is_text
from anonymousnet.data.tarball import Member, members
from anonymousnet.errors import StorageError
from anonymousnet.pipelines.samples import Fate, Item, Packed, Released, Rename, check_kept, kind_of, same_suffix

TEXTS = {".txt", ".json", ".jsonl", ".cls", ".cls2", ".id", ".index", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".md",
         ".text", ".caption", ".html"}  # fmt: skip
"""Endings of texts in archives."""


def unpack(data: bytes, policy: BulkConfig) -> list[Item]:
    """The pictures of a tar, in order; where others are dropped, those alone that samples are about.

    Raises DataError.
    """
    return [Item(one.name, one.data, key) for one, key, is_photo in _sorted_out(data, policy) if is_photo]


def _sorted_out(data: bytes, policy: BulkConfig) -> list[tuple[Member, str, bool]]:
    """Members, their samples, and whether they are photos to be released."""
    found = [(one, _sample(one.name)[0], _is_picture(one, policy)) for one in members(data)]
    if policy.members == "copy":
        return found
    pictures: dict[str, list[str]] = {}
    for one, key, shown in found:
        if shown:
            pictures.setdefault(key, []).append(one.name)
    meant = {name for names in pictures.values() for name in _photos_of(names)}
    return [(one, key, one.name in meant) for one, key, _ in found]


def _is_picture(member: Member, policy: BulkConfig) -> bool:
    """By its name or, without a suffix or where other members may be let out, by how it begins."""
    if member.unread:
        return False
    unnamed = policy.members == "copy" or not PurePosixPath(member.name).suffix
    return kind_of(member.name) == "photo" or (unnamed and is_picture(member.data))


def _sample(name: str) -> tuple[str, str]:
    """(sample, extension) of a member: split at the first dot of its last part."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension


def _photos_of(names: Sequence[str]) -> list[str]:
    """Of a sample's pictures those that it is about: `a.jpg`, not `a.seg.png` or `a.cls`."""
    named = [name for name in names if kind_of(name) == "photo"]
    return [name for name in named if "." not in _sample(name)[1]] or named or list(names)


def pack(data: bytes, fate: Fate, policy: BulkConfig, rename: Rename) -> Packed:
    """The tar of the samples that may be let out."""
    found, new = _sorted_out(data, policy), _NewTar(policy, rename)
    pictures: dict[str, list[str]] = {}
    for one, key, is_photo in found:
        if is_photo:
            pictures.setdefault(key, []).append(one.name)
    standing = {key for key, names in pictures.items() if fate.stands(_photos_of(names))}
    for one, key, is_photo in found:
        if is_photo and one.name in fate.released and key in standing:
            new.photo(one.name, key, fate.released[one.name])
        elif is_photo and key in standing:
            new.left_out[one.name] = fate.reason(one.name)
        elif one.unread:
            new.left_out[one.name] = one.unread
        elif not is_photo and (key in standing or key not in pictures):
            new.other(one.name, key, one.data)
    return new.packed()


class _NewTar:
    """A tar on its way: members get names that say nothing of the source, unless those are kept."""

    def __init__(self, policy: BulkConfig, rename: Rename) -> None:
        self.policy, self.rename = policy, rename
        self.names: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._taken: set[str] = set()
        self._out = io.BytesIO()
        self._archive = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - packed()

    def photo(self, name: str, key: str, photo: Released) -> None:
        """A released photo, and its faces beside it."""
        self.names[name] = self._named(name, key, photo.suffix, same_suffix(name, photo.suffix))
        self._add(self.names[name], photo.data)
        self._add(f"{self.names[name]}.json", json.dumps({"faces": photo.faces}).encode())

    def other(self, name: str, key: str, content: bytes) -> None:
        """What is no picture: text goes along, where that is wanted."""
        if self.policy.members == "drop":
            self.left_out[name] = "bulk.members=drop"
        elif not is_text(content):
            self.left_out[name] = "neither a picture nor a text without one"
        else:
            ending = PurePosixPath(name).suffix.lower()
            suffix = ending if ending in TEXTS else ".txt"  # of other names, the end may be somebody's, too
            try:
                self._add(self._named(name, key, suffix, True), content)
            except StorageError as error:
                self.left_out[name] = str(error)

    def packed(self) -> Packed:
        """The whole of it."""
        self._archive.close()
        return Packed(self._out.getvalue(), self.names, self.left_out)

    def _named(self, name: str, key: str, suffix: str, same: bool) -> str:
        """A name that is free. Raises StorageError for one that cannot be kept."""
        if self.policy.names == "kept":
            kept = name.removeprefix("./")
            check_kept(kept)
            whole = PurePosixPath(kept if same else f"{kept}{suffix}")
            stem, ending = str(whole).removesuffix(whole.suffix), whole.suffix
        else:
            stem, ending = self.rename(key), suffix
        free = f"{stem}{ending}"
        for number in count(2):
            if free not in self._taken and f"{free}.json" not in self._taken:
                return free
            free = f"{stem}.{number}{ending}"
        raise AssertionError

    def _add(self, name: str, content: bytes) -> None:
        """Without owner and time, so that the bytes depend on nothing else."""
        self._taken.add(name)
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        self._archive.addfile(member, io.BytesIO(content))
