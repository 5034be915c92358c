"""A request's photo: read into memory, never to a disk, within a size and a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from anonymousnet.serve.problems import Problem

FORM = "multipart/form-data"
FORM_BYTES = 4096
"""So much a form may add to its photo."""
OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            FORM: {"schema": {"type": "object", "required": ["photo"], "properties": {
                "photo": {"type": "string", "format": "binary"}}}},
        },
    }
}  # fmt: skip
"""How OpenAPI describes it."""


async def read_photo(request: Request, most: int, seconds: float) -> bytes:
    """The photo's bytes: the body itself, or the form's field `photo`. Raises Problem."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > most + FORM_BYTES:
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            if request.headers.get("content-type", "").lower().startswith(FORM):
                return await _from_form(request, most)
            return b"".join([chunk async for chunk in _bounded(request, most)])
    except TimeoutError:
        raise Problem("slow-body", f"it took more than {seconds:g} s", {"Connection": "close"}) from None


async def _bounded(request: Request, most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        yield chunk


async def _from_form(request: Request, most: int) -> bytes:
    class InMemory(MultiPartParser):
        spool_max_size = most + 2 * FORM_BYTES  # beyond it Starlette would write to a disk; the body is cut off before

    try:
        form = await InMemory(request.headers, _bounded(request, most + FORM_BYTES), max_files=1, max_fields=8).parse()  # type: ignore[arg-type]
    except (MultiPartException, KeyError, ValueError) as error:
        raise Problem("bad-form", str(error)[:200]) from None
    try:
        photo = form.get("photo")
        if not isinstance(photo, UploadFile):
            raise Problem("bad-form", "there is no file in the field `photo`")
        return await photo.read()
    finally:
        await form.close()


def _too_large(most: int) -> Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    return Problem("too-large", f"the limit is {most} bytes", {"Connection": "close"})
