"""Many photos through the four stages in full batches; a bad photo spoils itself alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from anonymousnet.anonymizer import Anonymizer, PhotoLike, Prepared, Release, join, split
from anonymousnet.errors import AnonymousNetError, ConfigError, WeightsError
from anonymousnet.faces import FaceBatch

PIXELS = 64_000_000
"""Photos with this many pixels together are a batch, however few faces they have: memory stays bounded."""
_BAD_PHOTO = (AnonymousNetError, MemoryError, ArithmeticError, ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Protected:
    """A photo that may be released. PRIVATE but for `release.photo` and the public evidence."""

    release: Release
    prepared: Prepared
    likeness: list[float] | None
    """Cosine of each released face to its source; None where no recogniser is configured."""


def protect(
    anonymizer: Anonymizer, photos: Iterable[tuple[PhotoLike, str | None]]
) -> Iterator[Protected | Exception]:  # fmt: skip
    """De-identify (photo, subject) pairs; for each, in order, the result or what is wrong with the photo.

    Nothing is spent here. Raises WeightsError, ConfigError: they are no photo's fault.
    """
    waiting: list[Prepared | Exception] = []
    faces = pixels = 0
    for photo, subject in photos:
        try:
            one = anonymizer.prepare(photo, subject)
            waiting.append(one)
            faces += len(one.batch)
            pixels += one.hidden_HW.size
        except (WeightsError, ConfigError):
            raise
        except _BAD_PHOTO as error:
            waiting.append(error)
        if faces >= anonymizer.config.batch or pixels >= PIXELS:
            yield from _finished(anonymizer, waiting)
            waiting, faces, pixels = [], 0, 0
    yield from _finished(anonymizer, waiting)


def _finished(anonymizer: Anonymizer, waiting: list[Prepared | Exception]) -> Iterator[Protected | Exception]:
    done = iter(_run(anonymizer, [one for one in waiting if isinstance(one, Prepared)]))
    for prepared in waiting:
        if isinstance(prepared, Exception):
            yield prepared
            continue
        part = next(done)
        if isinstance(part, Exception):
            yield part
            continue
        try:
            release = anonymizer.finish(prepared, part)
        except _BAD_PHOTO as error:
            yield error
            continue
        yield Protected(release, prepared, anonymizer.likeness(prepared, part))


def _run(anonymizer: Anonymizer, ready: list[Prepared]) -> list[FaceBatch | Exception]:
    """The stages over all faces of some photos at once; one by one when one of them spoils the batch."""
    if not ready:
        return []
    try:
        done = anonymizer.run(join([one.batch for one in ready]))
        return list(split(done, [len(one.batch) for one in ready]))
    except _BAD_PHOTO as error:
        return [error] if len(ready) == 1 else [part for one in ready for part in _run(anonymizer, [one])]
