"""Many photos through the four stages in full batches; a bad photo spoils itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from anonymousnet.anonymizer import Anonymizer, PhotoLike, Prepared, Release
from anonymousnet.errors import AnonymousNetError, ConfigError, MachineError, WeightsError
from anonymousnet.faces import FaceBatch, join, split
from anonymousnet.faults import blame

PIXELS = 64_000_000
"""Photos with this many pixels together are a batch, however few faces they have: memory stays bounded."""
_NO_PHOTOS = (WeightsError, ConfigError, MachineError)
"""Errors that are no photo's fault."""
_BATCH = (AnonymousNetError, MemoryError, ArithmeticError, ValueError, RuntimeError)
"""Errors of a batch that its photos may not share."""


@dataclass(frozen=True, slots=True)
class Protected:
    """A photo that may be released. PRIVATE but for `release.photo` and the public evidence."""

    release: Release
    data: bytes
    """The released file."""
    suffix: str
    """Of its name, such as ".jpg"."""
    prepared: Prepared
    likeness: list[float] | None
    """Cosine of each released face to its source; None where no recogniser is configured."""


def protect(
    anonymizer: Anonymizer, photos: Iterable[tuple[PhotoLike, str | None]]
) -> Iterator[Protected | Exception]:  # fmt: skip
    """De-identify (photo, subject) pairs; for each, in order, the result or what is wrong with the photo.

    Nothing is spent here. Raises WeightsError, ConfigError, MachineError: they are no photo's fault.
    """
    waiting: list[Prepared | Exception] = []
    faces = pixels = 0
    for photo, subject in photos:
        try:
            one = anonymizer.prepare(photo, subject)
            waiting.append(one)
            faces += len(one.batch)
            pixels += one.hidden_HW.size
        except _NO_PHOTOS:
            raise
        except Exception as error:  # decoders and detectors fed odd photos raise nearly anything
            waiting.append(blame(error, anonymizer))
        if faces >= anonymizer.config.batch or pixels >= PIXELS:
            yield from _finished(anonymizer, waiting)
            waiting, faces, pixels = [], 0, 0
    yield from _finished(anonymizer, waiting)


def _finished(anonymizer: Anonymizer, waiting: list[Prepared | Exception]) -> Iterator[Protected | Exception]:
    parts = iter(together(anonymizer.run, [one.batch for one in waiting if isinstance(one, Prepared)]))
    for prepared in waiting:
        if isinstance(prepared, Exception):
            yield prepared
            continue
        part = next(parts)
        if isinstance(part, Exception):
            yield blame(part, anonymizer)
            continue
        try:
            data, suffix, release = anonymizer.encode(prepared, anonymizer.finish(prepared, part))
            done = Protected(release, data, suffix, prepared, anonymizer.likeness(prepared, part))
        except _NO_PHOTOS:
            raise
        except Exception as error:  # encoders fed odd sizes raise nearly anything
            yield blame(error, anonymizer)
            continue
        yield done


def together(run: Callable[[FaceBatch], FaceBatch], batches: Sequence[FaceBatch]) -> list[FaceBatch | Exception]:
    """One or more stages over the faces of some photos at once; one by one when one of them spoils the batch.

    The batches must be of one strength. Each keeps its own evidence, and gains what the stages add.
    """
    if not batches:
        return []
    try:
        parts = split(run(join(batches)), [len(batch) for batch in batches])
    except _NO_PHOTOS:
        raise
    except _BATCH as error:
        return [error] if len(batches) == 1 else [part for one in batches for part in together(run, [one])]
    return [_with_evidence(part, batch) for part, batch in zip(parts, batches, strict=True)]


def _with_evidence(done: FaceBatch, before: FaceBatch) -> FaceBatch:
    known, added = before.public, done.public
    public = {
        **known, **added,
        "weights": {**known.get("weights", {}), **added["weights"]},
        "precision": tuple(sorted({*known.get("precision", ()), *added.get("precision", ())})),
    }  # fmt: skip
    return done.with_(public=public, seconds={**before.seconds, **done.seconds})
