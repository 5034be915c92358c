"""The ingress deployment: the API, the pages and the visual Turing test behind one FastAPI application."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anonymousnet import __version__
from anonymousnet.config import Config
from anonymousnet.privacy.randomness import derive
from anonymousnet.serve import api
from anonymousnet.serve.asked import Query, ask
from anonymousnet.serve.calls import by_value
from anonymousnet.serve.front import check_page
from anonymousnet.serve.gate import Gate
from anonymousnet.serve.jobs import Jobs
from anonymousnet.serve.metrics import Metrics
from anonymousnet.serve.models import ProblemDetails
from anonymousnet.serve.problems import Problem
from anonymousnet.serve.release_key import load_the_key

log = logging.getLogger("ray.serve")
REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer that does not bring its own."""
HTTP_PROBLEMS = {400: "bad-request", 404: "not-found", 405: "bad-method", 413: "too-large", 415: "not-an-image"}


class Service:
    """What the routes work with."""

    def __init__(
        self, config: Config, key: bytes, align: DeploymentHandle[Any], books: DeploymentHandle[Any]
    ) -> None:  # fmt: skip
        self.config = config
        self.align, self.books = by_value(align), by_value(books)
        self.gate, self.metrics, self.jobs = Gate(config, books), Metrics(), Jobs(config)
        self.under_way, self.closed = 0, False
        self.turing_secret = derive(key, "visual turing test")
        self.probe = ask(Query(), config, None)


@serve.ingress()
class Ingress:
    """One replica of it."""

    def __init__(
        self, config: Config, mark: bytes, align: DeploymentHandle[Any], books: DeploymentHandle[Any]
    ) -> None:  # fmt: skip
        self.service = Service(config, load_the_key(config, mark), align, books)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return application(self.service)

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait for what is under way."""
        self.service.closed = True
        while self.service.under_way:
            await asyncio.sleep(0.05)

    async def check_health(self) -> None:
        """A replica whose event loop answers is healthy; its callees are checked on their own."""


def application(service: Service) -> FastAPI:
    """The whole HTTP face."""
    from anonymousnet.serve import page, turing

    app = FastAPI(
        title="AnonymousNet", version=__version__, description="Photos of people in, unrecognisable people out.",
        docs_url=None, redoc_url=None, openapi_url="/openapi.json",
    )  # fmt: skip

    def operator(request: Request) -> None:
        """Whoever has a key; on loopback without keys, everybody."""
        service.gate.key(request.headers.get("authorization"))

    app.include_router(api.router(service))
    app.include_router(page.router())
    app.include_router(turing.router(service.config.serve.turing, service.turing_secret, Depends(operator).dependency))
    _tell_problems(app)
    _describe_problems(app)
    app.add_middleware(Envelope, service=service)
    return app


def _tell_problems(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    def problem(request: Request, error: Problem) -> JSONResponse:
        return error.response(_id(request.scope))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
        return Problem("bad-parameter", f"{where[:80]}: {first['msg']}").response(_id(request.scope))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        kind = HTTP_PROBLEMS.get(error.status_code, "bad-request")
        return Problem(kind, headers=dict(error.headers or {})).response(_id(request.scope))


def _describe_problems(app: FastAPI) -> None:
    """Put our problems into the OpenAPI document, where FastAPI would describe its own."""
    made = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document["components"]["schemas"]
            schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for operation in (op for path in document["paths"].values() for op in path.values()):
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    operation["responses"]["422"] = api.problems(422)[422]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


class Envelope:
    """Around every request: its id, the security headers, what is counted, and the last catch of a mistake of ours."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        scope["anonymousnet.id"] = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, status = time.perf_counter(), 0

        async def outwards(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                have = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(
                    (name.lower().encode(), value.encode()) for name, value in SECURITY.items()
                    if name.lower().encode() not in have
                )]  # fmt: skip
            await send(message)

        self.service.under_way += 1
        try:
            if self.service.gate.keys is None:  # as the proxies' front has asked already, where there is one
                check_page(scope["method"], headers)
            if self.service.closed:
                raise Problem("unavailable")
            await self.app(scope, receive, outwards)
        except Problem as problem:
            await problem.response(_id(scope))(scope, receive, outwards)
        except Exception as error:
            # The message may quote what was sent: the kind and the place are enough to find it.
            log.error("request %s: %s at %s", scope["anonymousnet.id"], type(error).__name__, _place(error))
            if status == 0:
                await Problem("server-error").response(_id(scope))(scope, receive, outwards)
        finally:
            self.service.under_way -= 1
            self.service.metrics.answered(_route(scope), status or 499, time.perf_counter() - started)


def _id(scope: Scope) -> str | None:
    return scope.get("anonymousnet.id")


def _route(scope: Scope) -> str:
    """The route's pattern, never the address that was asked for."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "other"


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "?"
