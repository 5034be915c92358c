"""The visual Turing test's HTTP face (Li & Lin 2019, section 3.3): `/v1/turing`.

A rater asks for a test, gets its pictures by number and side, and posts an answer to each. Which pictures those are
follows from the test's signed name and the server's secret: nothing about them is kept here, no replica needs to know
the others, and neither names nor addresses nor file formats tell the rater which is which. Right answers are told to
nobody but the operator; a rater who has answered everything learns the own share.
"""

from __future__ import annotations

import functools
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from anonymousnet.config_serve import TuringConfig
from anonymousnet.data.images import Photo, encode_photo, load_photo
from anonymousnet.data.paths import resolve_path
from anonymousnet.errors import ConfigError, ImageError, StorageError
from anonymousnet.metrics.identity import wilson
from anonymousnet.privacy.randomness import derive
from anonymousnet.serve.api import problems
from anonymousnet.serve.problems import Problem
from anonymousnet.serve.turing_answers import Answers
from anonymousnet.serve.turing_trials import (
    CHANCE,
    CHOICES,
    Choice,
    Finding,
    Gallery,
    Picture,
    Task,
    Trial,
    deal,
    read_gallery,
    tally,
)  # fmt: skip

log = logging.getLogger(__name__)
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Asked(Body):
    """A rater wants a test."""

    task: Task
    """`real`: which of two is a real photograph? `same`: do two photos show the same person?"""


class Started(Body):
    """A test: its pictures are at `/v1/turing/tests/{test}/pictures/{1 to trials}/{left or right}`."""

    test: str
    task: Task
    trials: int
    expires_in: float
    """Seconds."""


class Given(Body):
    """The answer to one question."""

    answer: Choice
    seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """How long the rater looked."""


class Progress(Body):
    """How far a test is."""

    answered: int
    trials: int


class Score(Body):
    """One rater's own result."""

    correct: int
    trials: int
    share: float
    low: float
    """Lower end of the 95 % interval (Wilson)."""
    high: float
    chance: float


class Shown(Body):
    """Tasks that can be taken here."""

    tasks: dict[Task, int]
    """Task -> questions of one test."""


class _Route(APIRoute):
    """What is wrong with the operator's files is told to the operator's log; raters learn that the test is away."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except (ConfigError, StorageError) as error:
                log.error("visual Turing test: %s", error)
                raise Problem("unavailable") from None

        return handler


class VisualTuringTest:
    """Questions, pictures and answers of one folder."""

    def __init__(self, settings: TuringConfig, secret: bytes) -> None:
        self.settings, self._secret = settings, derive(secret, "visual Turing test")
        self._deal = functools.lru_cache(maxsize=256)(self._dealt)

    @functools.cached_property
    def gallery(self) -> Gallery:
        """The folder's pictures, read once. Raises ConfigError; Problem where no folder is named."""
        return read_gallery(self._folder())

    @functools.cached_property
    def answers(self) -> Answers:
        """Raises ConfigError; Problem where no folder is named."""
        return Answers(self.settings.answers, self._folder())

    @functools.cached_property
    def tasks(self) -> dict[Task, int]:
        """What can be asked here -> how many questions."""
        counts = {task: len(deal(self.gallery, task, bytes(32), self.settings.trials)) for task in CHOICES}
        return {task: count for task, count in counts.items() if count}

    def start(self, task: Task) -> Started:
        if task not in self.tasks:
            raise Problem("no-folder", f"the task `{task}` needs photos that this server does not have")
        text = f"{task}.{int(time.time()):x}.{secrets.token_hex(8)}.{self.gallery.fingerprint}"
        test = f"{text}.{self._sign(text)}"
        return Started(
            test=test, task=task, trials=len(self.trials(test)), expires_in=round(self.settings.minutes * 60, 1)
        )

    def trials(self, test: str) -> list[Trial]:
        """The questions of a test that this server began, not too long ago."""
        text, _, signature = test.rpartition(".")
        # Bytes, because compare_digest takes no str beyond ASCII, and this is a stranger's.
        if not hmac.compare_digest(self._sign(text).encode(), signature.encode(errors="replace")):
            raise Problem("no-test")
        _, began, _, fingerprint = text.split(".")
        age = time.time() - int(began, 16)
        if age > self.settings.minutes * 60:
            given = f"{self.settings.minutes:g} are given"
            raise Problem("test-over", f"it began {age / 60:.0f} minutes ago, and {given}")
        if fingerprint != self.gallery.fingerprint:
            raise Problem("test-over", "the pictures have changed since it began")
        return self._deal(text)

    def picture(self, test: str, number: int, side: Literal["left", "right"]) -> bytes:
        """JPEG, every one of the same size and quality: a file's format or resolution would tell what it is."""
        trial = self._trial(test, number)
        return _square(trial.left if side == "left" else trial.right, self.gallery.px)

    def answer(self, test: str, number: int, given: Given) -> Progress:
        trial, task, name = self._trial(test, number), *_parts(test)
        if given.answer not in CHOICES[task]:
            raise Problem("bad-parameter", f"answer: expected {' or '.join(CHOICES[task])}, got {given.answer}")
        if not self.answers.add(name, task, number, trial, given.answer, given.seconds):
            raise Problem("answered", f"question {number} has an answer")
        return Progress(answered=len(self.answers.of(name)), trials=len(self.trials(test)))

    def score(self, test: str) -> Score:
        trials, (_, name) = self.trials(test), _parts(test)
        correct = [given.answer == given.truth for given in self.answers.of(name)]
        if len(correct) < len(trials):
            raise Problem("unfinished", f"{len(correct)} of {len(trials)} questions are answered")
        rate = wilson(sum(correct), len(correct))
        return Score(
            correct=sum(correct), trials=rate.trials, share=rate.value, low=rate.low, high=rate.high, chance=CHANCE
        )

    def _trial(self, test: str, number: int) -> Trial:
        trials = self.trials(test)
        if not 1 <= number <= len(trials):
            raise Problem("no-test", f"expected a question from 1 to {len(trials)}, got {number}")
        return trials[number - 1]

    def _dealt(self, text: str) -> list[Trial]:
        task: Task = "same" if text.startswith("same.") else "real"
        return deal(self.gallery, task, derive(self._secret, "questions", text), self.settings.trials)

    def _sign(self, text: str) -> str:
        return derive(self._secret, "name", text.encode(errors="replace")).hex()[:32]

    def _folder(self) -> Path:
        if self.settings.folder is None:
            raise Problem("no-folder")
        return resolve_path(self.settings.folder)


def check(settings: TuringConfig) -> None:
    """Raise ConfigError unless the test can be offered, or none is wanted: for the start of a server."""
    if settings.folder is not None:
        test = VisualTuringTest(settings, bytes(32))
        _ = test.tasks, test.answers


def router(settings: TuringConfig, secret: bytes, operator: Callable[..., Any]) -> APIRouter:
    """`/v1/turing/...`. `secret`: signs tests, the same in all replicas. `operator`: a FastAPI dependency that ends the
    request unless it comes from somebody who may read everybody's answers.
    """
    test = VisualTuringTest(settings, secret)
    routes = APIRouter(prefix="/v1/turing", tags=["visual Turing test"], route_class=_Route)

    @routes.get("", responses=problems(404, 503))
    def offered() -> Shown:
        """The tasks that can be taken here."""
        return Shown(tasks=test.tasks)

    @routes.post("/tests", status_code=201, responses=problems(404, 422, 503))
    def start(asked: Asked) -> Started:
        """Begin a test."""
        return test.start(asked.task)

    @routes.get("/tests/{name}/pictures/{number}/{side}", response_class=Response,
                responses={200: {"content": {"image/jpeg": {}}}, **problems(404, 410, 422, 503)})  # fmt: skip
    def picture(name: str, number: int, side: Literal["left", "right"]) -> Response:
        """One of the two pictures of a question."""
        return Response(test.picture(name, number, side), media_type="image/jpeg", headers=PRIVATE)

    @routes.post("/tests/{name}/answers/{number}", status_code=201, responses=problems(404, 409, 410, 422, 503))
    def answer(name: str, number: int, given: Given) -> Progress:
        """Answer a question, once."""
        return test.answer(name, number, given)

    @routes.get("/tests/{name}/score", responses=problems(404, 409, 410, 503))
    def own_score(name: str) -> Score:
        """The rater's own share of right answers, when all questions are answered."""
        return test.score(name)

    @routes.get("/results", dependencies=[Depends(operator)], responses=problems(401, 404, 503))
    def results() -> list[Finding]:
        """Everybody's answers beside chance, for the operator."""
        return tally(test.answers.all())

    @routes.get("/results.csv", dependencies=[Depends(operator)], response_class=Response,
                responses={200: {"content": {"text/csv": {}}}, **problems(401, 404, 503)})  # fmt: skip
    def table() -> Response:
        """Every answer, for the operator."""
        headers = PRIVATE | {"Content-Disposition": 'attachment; filename="visual-turing-test.csv"'}
        return Response(test.answers.csv(), media_type="text/csv; charset=utf-8", headers=headers)

    return routes


def _parts(test: str) -> tuple[Task, str]:
    """(task, the test's name in the answers) of a test whose signature was checked."""
    task, _, name, *_ = test.split(".")
    return "same" if task == "same" else "real", name


def _square(picture: Picture, px: int) -> bytes:
    try:
        image = Image.fromarray(load_photo(picture.path).rgb)
    except ImageError as error:
        raise StorageError(f"{picture.path} cannot be shown: {error}") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    shown = image.resize((px, px), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return encode_photo(Photo(np.asarray(shown), None, "JPEG"), "jpeg", 92)[0]
