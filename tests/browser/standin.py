"""A service with the API that the pages speak to, in one process: FastAPI and an Anonymizer, no Ray.

It answers as the service's OpenAPI document says; the integration tests hold the service to the same document.
"""

from __future__ import annotations

import base64
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import STRENGTHS, Config
from anonymousnet.data.attributes import ATTRIBUTES, OUTSIDE_FACE
from anonymousnet.data.images import encode_photo
from anonymousnet.errors import AnonymousNetError
from anonymousnet.serve import page, turing
from anonymousnet.serve.problems import Problem, Refused

SECRET = bytes(range(32))
OPERATOR = "the-operators-key"
MAX_BYTES = 4_000_000
MEASURED = json.loads(resources.files("anonymousnet.serve").joinpath("measured.json").read_text())


class Service:
    """The application, and knobs that tests turn."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.delays: list[float] = []
        """Seconds that the next requests take longer, each its own."""
        self.asked: list[dict[str, Any]] = []
        """Settings of every release, in order of arrival."""
        self.finished = 0
        """Releases that were made, whether or not anybody still waited for them."""
        self.key: str | None = None
        """If set, the API asks for it."""
        self._anonymizers: dict[tuple[float, float, float], Anonymizer] = {}
        self._lock = threading.Lock()
        self.app = self._build()

    def _anonymizer(self, epsilon: float, strength: float, perturbation: float) -> Anonymizer:
        settings = (epsilon, strength, perturbation)
        with self._lock:
            if settings not in self._anonymizers:
                tree = self.config.model_dump()
                tree["obfuscate"]["epsilon"], tree["synthesize"]["strength"] = epsilon, strength
                tree["perturb"]["epsilon"] = perturbation
                self._anonymizers[settings] = Anonymizer.load(Config.model_validate(tree), SECRET)
            return self._anonymizers[settings]

    def _check(self, authorization: str | None) -> None:
        if self.key is not None and authorization != f"Bearer {self.key}":
            raise Problem("no-key")

    def release(self, photo: bytes, epsilon: float, strength: float, perturbation: float) -> dict[str, Any]:
        """The JSON answer of `POST /v1/anonymize`."""
        self.asked.append({"epsilon": epsilon, "strength": strength, "perturbation": perturbation})
        time.sleep(self.delays.pop(0) if self.delays else 0)
        done = self._anonymizer(epsilon, strength, perturbation)(photo)
        data, suffix = encode_photo(done.image, "same", 95)
        height, width = done.image.rgb.shape[:2]
        faces = [asdict(face.evidence.public) for face in done.faces]
        for face in faces:
            face["epsilon"] = face["epsilon"] if math.isfinite(face["epsilon"]) else None
        self.finished += 1
        kind = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}[suffix]
        return {"photo": base64.b64encode(data).decode(), "media_type": kind, "width": width, "height": height,
                "faces": faces, "release": self.config.release.name}  # fmt: skip

    def read(self, photo: bytes) -> dict[str, Any]:
        """The answer of `POST /v1/attributes`."""
        one = self._anonymizer(10, 1, 0)
        batch = one.stages[0](one.prepare(photo).batch)
        assert batch.probabilities_B40 is not None
        rows = batch.probabilities_B40.tolist()
        return {"faces": [{"probabilities": dict(zip(ATTRIBUTES, row, strict=True))} for row in rows]}

    def _build(self) -> FastAPI:
        app = FastAPI()
        app.include_router(page.router())

        def operator(authorization: Annotated[str | None, Header()] = None) -> None:
            if authorization != f"Bearer {OPERATOR}":
                raise Problem("no-key")

        app.include_router(turing.router(self.config.serve.turing, SECRET, operator))

        @app.get("/v1/policy")
        def policy() -> dict[str, Any]:
            return {
                "epsilon": {"default": 10, "min": 0.1, "max": 20},
                "strength": {"default": 1, "allowed": sorted(STRENGTHS)},
                "perturbation": {"default": 5 / 255, "max": 10 / 255},
                "attributes": list(ATTRIBUTES), "outside": sorted(OUTSIDE_FACE), "key_required": self.key is not None,
                "max_bytes": MAX_BYTES, "max_pixels": 25_000_000, "measured": MEASURED,
            }  # fmt: skip

        @app.post("/v1/anonymize")
        async def anonymize(
            request: Request,
            epsilon: float = 10,
            strength: float = 1,
            perturbation: Annotated[float, Query(ge=0, le=0.04)] = 5 / 255,
            authorization: Annotated[str | None, Header()] = None,
        ) -> dict[str, Any]:
            self._check(authorization)
            return await run_in_threadpool(self.release, await request.body(), epsilon, strength, perturbation)

        @app.post("/v1/attributes")
        async def attributes(request: Request, authorization: Annotated[str | None, Header()] = None) -> dict[str, Any]:
            self._check(authorization)
            return await run_in_threadpool(self.read, await request.body())

        @app.exception_handler(Problem)
        def problem(_: Request, error: Problem) -> JSONResponse:
            return error.response()

        @app.exception_handler(AnonymousNetError)
        def refused(_: Request, error: AnonymousNetError) -> JSONResponse:
            return Refused.of(error).problem().response()

        return app


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The application behind uvicorn on a free port of loopback; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
