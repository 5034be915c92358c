"""The HTTP API, version 1. The only part of the service that knows HTTP; OpenAPI is at /openapi.json."""

# No `from __future__ import annotations` here: FastAPI reads the annotations, and some of them are made in `router`.
import base64
import json
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from anonymousnet import __version__
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES, OUTSIDE
from anonymousnet.nets.centerface_file import SHA256 as DETECTOR
from anonymousnet.serve import evidence
from anonymousnet.serve.asked import Query as Wanted
from anonymousnet.serve.asked import allowed_strengths, allowed_to_keep, ask, subject_of
from anonymousnet.serve.body import OPENAPI, read_photo
from anonymousnet.serve.calls import call
from anonymousnet.serve.keys import ApiKey
from anonymousnet.serve.models import (
    Attributes,
    Budget,
    BulkSettings,
    Job,
    Nothing,
    Released,
    Settings,
    Status,
    Subject,
    Version,
)
from anonymousnet.serve.problems import KINDS, MEDIA_TYPE, Problem, Refused
from anonymousnet.weights import sha256_of
from anonymousnet.weights.versions import newest

if TYPE_CHECKING:
    from anonymousnet.serve.ingress import Service

NO_STORE = {"Cache-Control": "no-store"}
READY_S = 5.0
"""For how long an answer about readiness holds: asking is free, and each one runs the networks."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI describes the problems of an operation."""
    titles = {status: [kind.title for kind in KINDS.values() if kind.status == status] for status in statuses}
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": ". ".join(titles[status]), "content": content} for status in statuses}


PHOTO = problems(400, 401, 403, 408, 413, 415, 422, 429, 503, 504)
RELEASED_AS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The released photo; its public evidence is in the headers Anonymousnet-*.",
          "content": {kind: {} for kind in ("image/jpeg", "image/png", "image/webp")}},
}  # fmt: skip


def router(service: "Service") -> APIRouter:
    """`/v1/...`."""
    routes = APIRouter(prefix="/v1")
    bearer = HTTPBearer(
        auto_error=False, description="`Authorization: Bearer KEY`; not needed where /v1/policy says so."
    )

    def key_of(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)], request: Request
    ) -> ApiKey | None:
        return service.gate.key(request.headers.get("authorization"))

    async def admitted(key: Annotated[ApiKey | None, Depends(key_of)]) -> ApiKey | None:
        await service.gate.admit(key)
        return key

    anyone = Annotated[ApiKey | None, Depends(key_of)]
    worker = Annotated[ApiKey | None, Depends(admitted)]

    @routes.post("/anonymize", openapi_extra=OPENAPI, responses={**RELEASED_AS, **PHOTO}, response_model=Released,
                 tags=["photos"])  # fmt: skip
    async def anonymize(request: Request, key: worker, settings: Annotated[Settings, Query()]) -> Response:
        """De-identify every face of a photo. With `Accept: application/json` the answer is JSON, else the photo."""
        return await _anonymize(service, request, key, settings)

    @routes.post("/attributes", openapi_extra=OPENAPI, responses=PHOTO, response_model=Attributes, tags=["photos"])
    async def attributes(request: Request, key: worker, nothing: Annotated[Nothing, Query()]) -> Response:
        """What a classifier reads in a photo, before anything is done to it: for the person whose photo it is."""
        started, asked = time.monotonic(), ask(Wanted(), service.config, key)
        data = await _photo(service, request)
        left = asked.left_s - (time.monotonic() - started)
        faces = await call(service.align.attributes, data, asked.before(left), left_s=left)
        if isinstance(faces, Refused):
            raise _told(service, faces)
        return JSONResponse({"faces": faces}, headers=NO_STORE)

    @routes.get("/budget", responses=problems(401, 404, 422, 503), response_model=Budget, tags=["privacy"])
    async def budget(key: anyone, query: Annotated[Subject, Query()]) -> Response:
        """What a subject, and the key's photos together, have spent."""
        return await _budget(service, key, query.subject)

    @routes.get("/policy", responses=problems(422), tags=["privacy"])
    def policy(nothing: Annotated[Nothing, Query()]) -> dict[str, Any]:
        """What may be asked for here, and what was measured."""
        return policy_of(service.config)

    @routes.post(
        "/jobs", status_code=202, responses=problems(400, 401, 403, 422, 429, 503), response_model=Job, tags=["jobs"]
    )
    async def submit(wanted: BulkSettings, key: worker, response: Response) -> dict[str, Any]:
        """Start a bulk job; it goes on by itself."""
        if wanted.settings.subject is not None:
            raise Problem("bad-parameter", "a bulk job has many subjects; leave `subject` out")
        asked = ask(wanted.settings.wanted(), service.config, key)
        identity = await service.jobs.submit(wanted.source, wanted.target, asked)
        response.headers["Location"] = f"/v1/jobs/{identity}"
        return {"id": identity, "state": "pending"}

    @routes.get("/jobs/{identity}", responses=problems(401, 404, 422, 503), response_model=Job, tags=["jobs"])
    async def job(identity: Annotated[str, Path(pattern="^[0-9a-f]{32}$")], key: anyone) -> dict[str, Any]:
        """How far a job is."""
        return await service.jobs.state(identity, key.name if key else None)

    _operations(routes, service)
    return routes


def _operations(routes: APIRouter, service: "Service") -> None:
    ready = _held(READY_S, lambda: call(service.align.ready, service.probe, left_s=service.probe.left_s))

    @routes.get("/health/live", response_model=Status, tags=["operations"])
    def live() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "live"}

    @routes.get("/health/ready", response_model=Status, responses=problems(503), tags=["operations"])
    async def is_ready() -> dict[str, str]:
        """Whether a face goes through all stages: the networks are run."""
        if isinstance(await ready(), Refused):
            raise Problem("unavailable")
        return {"status": "ready"}

    @routes.get("/version", response_model=Version, tags=["operations"])
    def version() -> dict[str, Any]:
        """The software and the weights."""
        return {"version": __version__, "weights": weights_of(service.config), "detector": DETECTOR}


async def _anonymize(service: "Service", request: Request, key: ApiKey | None, settings: Settings) -> Response:
    started, asked = time.monotonic(), ask(settings.wanted(), service.config, key)
    data = await _photo(service, request)
    left = asked.left_s - (time.monotonic() - started)
    answer = await call(service.align.anonymize, data, asked.before(left), left_s=left)
    if isinstance(answer, Refused):
        raise _told(service, answer)
    release = settings.release or service.config.release.name
    if "application/json" in request.headers.get("accept", ""):
        photo = base64.b64encode(answer.photo).decode()
        faces = [face | {"unprotected": list(face["unprotected"])} for face in answer.faces]
        return JSONResponse(
            {"photo": photo, "media_type": answer.media_type, "width": answer.width, "height": answer.height,
             "faces": faces, "release": release}, headers=NO_STORE)  # fmt: skip
    return Response(
        answer.photo, media_type=answer.media_type, headers=evidence.headers(answer.faces, release) | NO_STORE
    )


async def _photo(service: "Service", request: Request) -> bytes:
    data = await read_photo(request, service.config.serve.max_bytes, service.config.serve.deadline_s)
    if not data:
        raise Problem("empty-image")
    return data


def _told(service: "Service", refused: Refused) -> Problem:
    problem = refused.problem()
    if problem.status < 500:
        service.metrics.withheld(problem.kind)
    return problem


async def _budget(service: "Service", key: ApiKey | None, subject: str | None) -> Response:
    release = service.config.release
    if release.ledger is None:
        raise Problem("no-ledger")
    named = None if subject is None else subject_of(key, subject)
    found = await call(service.books.spent, named, key and key.name, left_s=service.config.serve.deadline_s)
    if isinstance(found, Refused):
        raise found.problem()
    limits = {"subject": release.budget, "key": key and key.budget}
    answer: dict[str, Any] = {"subject": None, "key": None}
    for who, spent in found.items():
        limit = limits[who]
        answer[who] = {"spent": spent, "budget": limit, "left": None if limit is None else max(limit - spent, 0.0)}
    return JSONResponse(answer, headers=NO_STORE)


def policy_of(config: Config) -> dict[str, Any]:
    """What may be asked for, and what was measured."""
    serve, outside = config.serve, OUTSIDE[config.synthesize.region] | set(config.obfuscate.followed)
    return {
        "epsilon": {"default": config.obfuscate.epsilon, "min": serve.min_epsilon, "max": serve.max_epsilon},
        "region": config.synthesize.region,
        "strength": {"default": config.synthesize.strength, "allowed": allowed_strengths(config)},
        "perturbation": {"default": config.perturb.epsilon, "max": serve.max_perturbation},
        "attributes": list(ATTRIBUTES),
        "outside": [name for name in ATTRIBUTES if name in outside],
        "keepable": list(allowed_to_keep(config)),
        "key_required": serve.keys is not None,
        "max_bytes": serve.max_bytes,
        "max_pixels": min(serve.max_pixels, config.align.max_pixels),
        "max_faces": serve.max_faces,
        "measured": json.loads(resources.files(__package__).joinpath("measured.json").read_text()),
    }


def weights_of(config: Config) -> dict[str, str]:
    """Network -> SHA-256 of its weights."""
    names = {"attributes": config.predict.weights, "surroundings": config.predict.surroundings,
             "generator": config.synthesize.generator, "translator": config.synthesize.translation_weights,
             "universal": config.perturb.weights}  # fmt: skip
    if config.align.landmarks is not None:
        names["landmarks"] = config.align.landmarks
    if config.synthesize.codes is not None:
        names["codes"] = config.synthesize.codes
    return {role: sha256_of(newest(name)) for role, name in names.items()}


def _held(seconds: float, ask_again: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """The last good answer for some seconds."""
    until = 0.0

    async def answer() -> Any:
        nonlocal until
        if time.monotonic() < until:
            return None
        found = await ask_again()
        if not isinstance(found, Refused):
            until = time.monotonic() + seconds
        return found

    return answer
