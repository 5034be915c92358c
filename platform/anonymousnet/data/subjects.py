"""Whose photo it is: a list of photos and subjects, as people's spreadsheets and text editors write it.

    photo,subject           CSV, with quotes where a name needs them; this first line may be left out
    photo<TAB>subject
    photo,subject,subject   several: those of the faces, left to right (with tabs as well)
    photo subject           the last blank parts them: photos' names may hold blanks, subjects' may not

UTF-8, with or without a byte order mark. A name is the photo's relative name, or its file name alone. Names are
compared in Unicode's form NFC: what a Mac calls `Zoë.jpg` in five letters and a mark is `Zoë.jpg`.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from anonymousnet.data.images import PHOTO_SUFFIXES
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import ConfigError, UnnamedSubject

SHOWN = 3
"""Names that an error or a summary quotes; all of them are for the private folder."""
_EXPECTED = "expected lines of `photo,subject`, `photo<TAB>subject` or `photo subject`"
_HEADER = ["photo", "subject"]
BETWEEN = "\t"
"""Stands between the names of several faces."""

Pair = list[str]


class Subjects(Mapping[str, str]):
    """Photo -> subject (or several, `BETWEEN` them), in NFC; `of` finds a photo by any of its names. PRIVATE."""

    def __init__(self, pairs: Mapping[str, str], given: bool = True) -> None:
        """`given`: whether there is a list at all; without one every photo is its own subject."""
        self._pairs, self.given = dict(pairs), given

    def __getitem__(self, name: str) -> str:
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def find(self, *names: str) -> str | None:
        """The first of a photo's names that a line has, as it stands here; None where no line names it."""
        return next((name for name in map(_plain, names) if name in self._pairs), None)

    def of(self, *names: str, budget: float | None = None) -> str | None:
        """Whose photo it is; None: nobody's that is known, so it is its own subject.

        Raises UnnamedSubject under a budget: what an unknown photo spends would be charged to nobody.
        """
        if (name := self.find(*names)) is not None:
            return self._pairs[name]
        if self.given and budget is not None:
            raise UnnamedSubject(
                "no line of release.subjects names this photo, so nobody knows whose budget it spends; add a line "
                "`photo,subject` for it"
            )
        return None

    def told(self, unmatched: Iterable[str], where: str) -> str | None:
        """One line about the names that match no photo; None where every line does. PRIVATE: it quotes a few."""
        names = list(unmatched)
        if not names:
            return None
        quoted = ", ".join(map(repr, names[:SHOWN]))
        return (
            f"release.subjects: {len(names)} of {len(self)} lines match no photo, such as {quoted}; all of them are in "
            f"{where}"
        )


def read_subjects(path: Path | None) -> Subjects:
    """The list at `path`; none for None. Raises ConfigError: it does not read, or two lines disagree."""
    if path is None:
        return Subjects({}, given=False)
    path = resolve_path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"release.subjects: cannot read {path} ({error.strerror}); {_EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"release.subjects: expected UTF-8 in {path}, found byte 0x{error.object[error.start]:02x}; save it so"
        ) from error
    lines = [(i, line) for i, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1) if line.strip()]
    return Subjects(_agreed(_parted(lines, path), path))


def _parted(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, Pair]]:
    """Each line as photo and subject, by the one separator that fits them all; of several by the one whose left sides
    look most like photos."""
    ways = [[part(line) for _, line in lines] for part in (_by_tab, _by_comma, _by_blank)]
    fitting = [[pair for pair in pairs if pair] for pairs in ways if all(pairs)]
    if not fitting:
        most = max(ways, key=lambda pairs: sum(pair is not None for pair in pairs))
        raise ConfigError(
            f"release.subjects: {_EXPECTED}, found something else; check line {lines[most.index(None)][0]} of {path}"
        )
    best = max(fitting, key=lambda pairs: sum(_is_photo(photo) for photo, _ in pairs))
    return [(number, pair) for (number, _), pair in zip(lines, best, strict=True)]


def _by_tab(line: str) -> Pair | None:
    return _whole(line.split("\t"))


def _by_comma(line: str) -> Pair | None:
    try:
        return _whole(next(csv.reader([line], strict=True)))
    except (csv.Error, StopIteration):
        return None


def _by_blank(line: str) -> Pair | None:
    return _whole(line.strip().rsplit(maxsplit=1))


def _whole(fields: list[str]) -> Pair | None:
    """A photo and its subject or subjects, or nothing where a field is empty."""
    photo, *subjects = (_plain(field.strip()) for field in fields)
    return [photo, BETWEEN.join(subjects)] if subjects and all((photo, *subjects)) else None


def _agreed(pairs: list[tuple[int, Pair]], path: Path) -> dict[str, str]:
    """The pairs as a mapping. Raises ConfigError where two lines say otherwise of one photo."""
    found: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, (photo, subject) in pairs:
        if not found and [photo.lower(), subject.lower()] == _HEADER:
            continue
        if found.setdefault(photo, subject) != subject:
            raise ConfigError(
                f"release.subjects: lines {first[photo]} and {number} of {path} name one photo and two subjects; "
                "leave one of them"
            )
        first.setdefault(photo, number)
    return found


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).removeprefix("./")


def _is_photo(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES
