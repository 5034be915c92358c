"""What the service is compared with: the same four stages behind FastAPI + uvicorn in one process, and LitServe.

python -m tests.bench.serve_peers fastapi|litserve PORT
"""

from __future__ import annotations

import base64
import sys

import litserve as ls
from fastapi import FastAPI, Request, Response

from anonymousnet import Anonymizer
from anonymousnet.data.images import encode_photo

WORKERS = 2


def released(anonymizer: Anonymizer, data: bytes) -> bytes:
    """What every peer does with a photo."""
    return encode_photo(anonymizer(data).image, "same", 95)[0]


def fastapi_app() -> FastAPI:
    """One process; photos are worked on in threads, so that both cores are used."""
    from starlette.concurrency import run_in_threadpool

    app, anonymizer = FastAPI(), Anonymizer.load()

    @app.post("/v1/anonymize")
    async def anonymize(request: Request) -> Response:
        data = await request.body()
        return Response(await run_in_threadpool(released, anonymizer, data), media_type="image/jpeg")

    return app


class Api(ls.LitAPI):  # type: ignore[misc]
    """At the top of the module: workers are spawned and read it anew. A body is JSON here, for LitServe sends no other
    to its workers."""

    def setup(self, device: str) -> None:
        self.anonymizer = Anonymizer.load()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would be its schema
        return base64.b64decode(request["photo"])

    def predict(self, data: bytes) -> bytes:
        return released(self.anonymizer, data)

    def encode_response(self, photo: bytes) -> Response:
        return Response(photo, media_type="image/jpeg")


def litserve(port: int) -> None:
    """Two worker processes, as there are two cores."""
    ls.LitServer(Api(api_path="/v1/anonymize"), accelerator="cpu", workers_per_device=WORKERS).run(
        host="127.0.0.1", port=port, generate_client_file=False, log_level="warning"
    )


def main() -> None:
    which, port = sys.argv[1], int(sys.argv[2])
    if which == "litserve":
        litserve(port)
    else:
        import uvicorn

        uvicorn.run(fastapi_app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
