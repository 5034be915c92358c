"""A request whose Ingress replica died is sent again by the proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from anonymousnet.serve import again

GOOD = {"X-Content-Type-Options": "nosniff"}
Answer = Callable[[bytes], Response]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "PAUSE_S", 0.01)


def asked(answers: list[Answer | Exception], method: str = "POST", path: str = "/v1/anonymize") -> tuple[Any, int]:
    """The answer to a photo where the proxy gives `answers` in turn, and how many of them are left."""

    async def proxy(request: Request) -> Response:
        answer = answers.pop(0)
        body = await request.body()
        if isinstance(answer, Exception):
            raise answer
        return answer(body)

    app = Starlette(routes=[Route(path, proxy, methods=[method])], middleware=[Middleware(again.Again)])
    client = TestClient(app, raise_server_exceptions=False)
    return client.request(method, path, content=b"photo" if method == "POST" else None), len(answers)


def died(body: bytes) -> Response:
    return PlainTextResponse("Internal Server Error", 500)


def fine(body: bytes) -> Response:
    return Response(body.upper(), headers=GOOD)


def test_the_whole_request_is_sent_again_until_a_replica_answers() -> None:
    answer, left = asked([died, lambda _: PlainTextResponse("no replica", 503), ConnectionError("gone"), fine])
    assert (answer.status_code, answer.content, left) == (200, b"PHOTO", 0)


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (lambda _: Response("{}", 500, headers=GOOD), 500),  # the service's own words
        (lambda _: Response("{}", 503, headers=GOOD), 503),
        (lambda _: PlainTextResponse("queue full", 503, headers={"Retry-After": "1"}), 503),
        (lambda _: PlainTextResponse("no such route", 404), 404),
    ],
)
def test_other_answers_pass(first: Answer, status: int) -> None:
    answer, left = asked([first, fine])
    assert (answer.status_code, left) == (status, 1)


def test_what_may_not_be_done_twice_is_not() -> None:
    assert asked([died, fine], path="/v1/jobs")[0].status_code == 500
    assert asked([died, fine], method="GET", path="/v1/jobs")[0].status_code == 200


def test_a_proxy_that_says_it_is_unhealthy_is_believed() -> None:
    assert asked([lambda _: PlainTextResponse("draining", 503), fine], method="GET", path="/-/healthz")[1] == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "PATIENCE_S", 0.05)
    answer, left = asked([died] * 50)
    assert answer.status_code == 500
    assert left > 40


def test_a_proxy_that_says_nothing_is_asked_again() -> None:
    sent, silences = list[str](), [True, True]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if silences:
            silences.pop()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(again.Again(app)({"type": "http", "method": "GET", "path": "/"}, receive, send))
    assert (sent, silences) == (["http.response.start"], [])


def test_nobody_works_for_a_client_that_has_gone() -> None:
    calls = list[int]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(1)
        while (await receive())["type"] != "http.disconnect":
            pass

    messages = [{"type": "http.request", "body": b"photo", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    asyncio.run(again.Again(app)({"type": "http", "method": "POST", "path": "/v1/anonymize"}, receive, send))
    assert calls == [1]


def test_an_answer_that_had_begun_is_not_begun_anew() -> None:
    calls = list[int]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConnectionError("gone")

    async def nothing(*_: Any) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    with pytest.raises(ConnectionError):
        asyncio.run(again.Again(app)({"type": "http", "method": "GET", "path": "/"}, nothing, nothing))
    assert calls == [1]
