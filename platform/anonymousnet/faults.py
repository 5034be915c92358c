"""Whose fault an error is: the photo's, which is then withheld, or the machine's, which ends the job."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from anonymousnet.errors import FaceError, ImageError, MachineError

if TYPE_CHECKING:
    from anonymousnet.anonymizer import Anonymizer

_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENODEV,
    errno.ESTALE,
}  # fmt: skip
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
"""How libraries that have no error of their own for it say it."""


def machine_fault(error: BaseException) -> MachineError | None:
    """The error as the machine's own: a full disk, no memory, a library that does not load; None for any other."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, (ImageError, FaceError)):  # those speak of the photo alone
        said = " ".join(str(link).split())
        if isinstance(link, MachineError):
            return link
        if isinstance(link, MemoryError) or (isinstance(link, RuntimeError) and _has(said, _NO_MEMORY)):
            return MachineError(f"not enough memory ({said or 'MemoryError'}); use fewer --workers, or more of it")
        if isinstance(link, ImportError):
            return MachineError(f"a library is missing or does not load ({said}); run `anonymousnet doctor`")
        if isinstance(link, OSError) and link.errno in _OF_THE_MACHINE:
            return MachineError(f"the machine fails, no photo: {said}; mend that, then run the same command again")
        link = link.__cause__
    return None


def check_machine(error: BaseException) -> None:
    """Raise MachineError where `error` is the machine's."""
    if fault := machine_fault(error):
        raise fault from error


def blame(error: Exception, anonymizer: Anonymizer) -> Exception:
    """`error`, where it is a photo's own fault. Raises MachineError where it is not.

    Of an error that nobody raised on purpose a picture of our own tells: what fails over that one, too, is no photo's.
    """
    check_machine(error)
    if not isinstance(error, (ImageError, FaceError)):
        rehearse(anonymizer)
    return error


def rehearse(anonymizer: Anonymizer) -> None:
    """De-identify a rendered face. Raises MachineError where that fails: then every photo would."""
    from anonymousnet.data.synthetic import render_page

    try:
        anonymizer(render_page(3, faces=1, width=240)[0])
    except FaceError:
        return  # an answer, if none that was expected: the settings may be strict
    except Exception as error:
        said = " ".join(str(error).split())
        raise machine_fault(error) or MachineError(
            f"a rendered face fails as well ({type(error).__name__}: {said}), so no photo is at fault; mend that, or "
            "run `anonymousnet doctor`"
        ) from error


def _has(said: str, words: tuple[str, ...]) -> bool:
    return any(word in said.lower() for word in words)
