"""The pages a browser shows: `/`, `/turing`, `/turing/results` and what they load from `/assets/`.

They are files of the package, none of them knows a setting or a secret, and none loads anything from elsewhere: the
headers forbid it to the browser as well.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from importlib import resources

from fastapi import APIRouter, Request, Response
from PIL import Image

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
PAGES = {"/": "index.html", "/turing": "turing.html", "/turing/results": "results.html"}
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
          ".js": "text/javascript; charset=utf-8", ".jpg": "image/jpeg"}  # fmt: skip


def router() -> APIRouter:
    """The pages and their assets, with the headers above."""
    routes = APIRouter(include_in_schema=False)
    for path, name in [*PAGES.items(), *((f"/assets/{name}", name) for name in assets())]:
        routes.add_api_route(path, _endpoint(name), methods=["GET", "HEAD"])
    return routes


def assets() -> list[str]:
    """Names below `/assets/`."""
    files = [file.name for file in resources.files(__package__).joinpath("page").iterdir() if file.is_file()]
    return sorted([name for name in files if name.endswith((".css", ".js", ".svg"))] + ["sample.jpg"])


def _endpoint(name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        body, tag = _content(name)
        headers = HEADERS | {"ETag": tag}
        if request.headers.get("If-None-Match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=_TYPES["." + name.rsplit(".", 1)[1]], headers=headers)

    return answer


@functools.cache
def _content(name: str) -> tuple[bytes, str]:
    """(bytes, ETag) of a file of the package, or of the sample photo."""
    body = _sample() if name == "sample.jpg" else resources.files(__package__).joinpath("page", name).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def _sample() -> bytes:
    """The public-domain photo of Eileen Collins (NASA) that comes with scikit-image."""
    from skimage.data import astronaut

    out = io.BytesIO()
    photo = Image.fromarray(astronaut())
    photo.save(out, "JPEG", quality=92)
    return out.getvalue()
