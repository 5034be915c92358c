"""What a client is told when something is wrong: RFC 9457 problems, each with a remedy, never a stack trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A sort of problem."""

    status: int
    title: str
    remedy: str


KINDS: dict[str, Kind] = {
    "empty-image": Kind(400, "No photo was sent", "Send its bytes as the body, or as the form's field `photo`."),
    "bad-form": Kind(400, "The form does not read", "Send multipart/form-data with one file in the field `photo`."),
    "bad-request": Kind(400, "The request does not read", "Compare it with /openapi.json."),
    "no-key": Kind(401, "An API key is needed", "Send the header `Authorization: Bearer KEY`."),
    "bad-key": Kind(401, "The API key is not known", "Check the key, or ask the operator for a new one."),
    "policy": Kind(403, "Not allowed here", "Stay within GET /v1/policy, or ask the operator for another key."),
    "budget": Kind(403, "The privacy budget is spent", "Lower epsilon to what GET /v1/budget says is left, or leave "
                   "the photo out."),
    "not-found": Kind(404, "Nothing is here", "Compare the address with /openapi.json."),
    "no-ledger": Kind(404, "No budgets are kept here", "The operator sets release.ledger to keep them."),
    "bad-method": Kind(405, "Not with this method", "Compare the method with /openapi.json."),
    "bad-host": Kind(421, "Asked by another name", "Without API keys the service answers to 127.0.0.1 and localhost "
                     "alone: use one of them, or have the operator set serve.keys."),
    "foreign-page": Kind(403, "Asked by another site's page", "Use the service's own page, or a program. With API keys "
                         "(serve.keys) other pages may ask too."),
    "slow-body": Kind(408, "The body did not arrive in time", "Send it at once, over a faster line, or a smaller one."),
    "conflict": Kind(409, "This would undo a guarantee", "Use another release name."),
    "too-large": Kind(413, "The body or photo is too large", "Shrink the photo to what GET /v1/policy allows."),
    "not-an-image": Kind(415, "This is not a photo", "Send a JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, JPEG 2000 "
                         "or PPM."),
    "truncated-image": Kind(422, "The photo is cut short", "Copy or download it again, and send all of it."),
    "no-face": Kind(422, "No face was found", "Leave the photo out; nothing was released."),
    "too-many-faces": Kind(422, "Too many faces", "Cut the photo into parts."),
    "withheld": Kind(422, "The photo is withheld", "A face could not be replaced, so nothing was released; leave the "
                     "photo out."),
    "bad-parameter": Kind(422, "A parameter is wrong", "Compare it with GET /v1/policy and /openapi.json."),
    "no-test": Kind(404, "No such visual Turing test", "Begin one at /turing."),
    "no-folder": Kind(404, "No visual Turing test here", "The operator sets serve.turing.folder to offer one."),
    "answered": Kind(409, "Answered before", "Go on to the next question: the first answer counts."),
    "unfinished": Kind(409, "The test is not finished", "Answer the other questions: right and wrong are not told on "
                       "the way."),
    "test-over": Kind(410, "The test is over", "Begin another one at /turing."),
    "rate": Kind(429, "Too many requests", "Wait as long as Retry-After says."),
    "server-error": Kind(500, "A mistake of ours", "Tell the operator the request id; nothing was released."),
    "busy": Kind(503, "Too much work at the moment", "Wait as long as Retry-After says, then send it again: the same "
                 "request gives the same photo."),
    "unavailable": Kind(503, "A part of the service is away", "Wait as long as Retry-After says, then send it again."),
    "deadline": Kind(504, "It took too long", "Send a smaller photo, or the same one later."),
}  # fmt: skip

OF_ERRORS = {
    "EmptyImage": "empty-image", "UnreadableImage": "not-an-image", "TruncatedImage": "truncated-image",
    "ImageTooLarge": "too-large", "ImageTooSlow": "too-large", "TooManyScans": "not-an-image",
    "NoFaceFound": "no-face", "TooManyFaces": "too-many-faces",
    "ProtectionFailed": "withheld", "UnpaintedFace": "withheld",
    "StageError": "withheld", "BudgetExceeded": "budget", "PrivacyError": "conflict",
    "OverPolicy": "policy", "ConfigError": "bad-parameter", "LedgerError": "unavailable", "WeightsError": "unavailable",
    "MachineError": "unavailable",
    "DeadlineExceeded": "deadline", "Busy": "busy", "Unavailable": "unavailable",
}  # fmt: skip
"""Names of exceptions -> kinds. All else that goes wrong with a photo withholds it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a replica did not do what it was asked: a value, so that no stack trace travels or is logged."""

    error: str
    """Name of the exception."""
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Refused:
        return cls(type(error).__name__, " ".join(str(error).split()))

    def problem(self) -> Problem:
        """As the client is told it. What the message advises is for operators and is left out."""
        kind = OF_ERRORS.get(self.error, "withheld")
        said = self.message.split("; ")[0] if self.error in OF_ERRORS else "its faces could not be replaced"
        return Problem("unavailable" if kind == "unavailable" else kind, "" if kind == "unavailable" else said)


class Problem(Exception):
    """Ends a request."""

    def __init__(self, kind: str, detail: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.headers = kind, detail, dict(headers or {})

    @property
    def status(self) -> int:
        return KINDS[self.kind].status

    def response(self, request_id: str | None = None) -> JSONResponse:
        """The answer."""
        status, title, remedy = KINDS[self.kind]
        body: dict[str, Any] = {"type": f"urn:anonymousnet:problem:{self.kind}", "title": title, "status": status}
        if self.detail:
            body["detail"] = self.detail
        body["remedy"] = remedy
        if request_id:
            body["request_id"] = request_id
        headers = {"Cache-Control": "no-store", **self.headers}
        if status == 401:
            headers.setdefault("WWW-Authenticate", "Bearer")
        if status == 503:
            headers.setdefault("Retry-After", "1")
        return JSONResponse(body, status, headers, MEDIA_TYPE)
