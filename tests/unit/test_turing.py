"""The visual Turing test: its questions, its statistics, its file of answers, and what strangers may do with it."""

from __future__ import annotations

import csv
import io
import json
import stat
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from PIL import Image
from tests.browser.service import running

from anonymousnet.config_serve import TuringConfig
from anonymousnet.errors import ConfigError
from anonymousnet.metrics.identity import wilson
from anonymousnet.serve import turing
from anonymousnet.serve.problems import Problem
from anonymousnet.serve.turing_answers import Answers
from anonymousnet.serve.turing_trials import Answer, Gallery, deal, read_gallery, tally

SECRET = bytes(range(32))
KEY = "the-operators-key"


def make_folder(root: Path, people: int = 6, each: int = 4) -> Path:
    """Pictures of one colour each: red ones untouched, blue ones released."""
    for form, channel in (("untouched", 0), ("released", 2)):
        (root / form).mkdir(parents=True)
        for number in range(people * each):
            colour = [0, 0, 0]
            colour[channel] = 100 + number
            Image.new("RGB", (80, 70 + number), tuple(colour)).save(root / form / f"{number}.png")
    lines = [f"{number}.png {number % people}" for number in range(people * each)]
    (root / "identities.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def gallery(folder: Path) -> Gallery:
    return read_gallery(folder)


# --- questions


def test_real_sets_a_released_beside_an_untouched_face_of_another_photo(gallery: Gallery) -> None:
    for seed in range(20):
        for trial in deal(gallery, "real", bytes([seed]), 12):
            real, fake = (trial.left, trial.right) if trial.truth == "left" else (trial.right, trial.left)
            assert (real.form, fake.form) == ("untouched", "released")
            assert real.photo != fake.photo


@pytest.mark.parametrize("task", ["real", "same"])
def test_no_photo_is_shown_twice_in_either_form(gallery: Gallery, task: Any) -> None:
    for seed in range(20):
        trials = deal(gallery, task, bytes([seed]), 100)
        shown = [picture.photo for trial in trials for picture in (trial.left, trial.right)]
        assert len(shown) == len(set(shown))
    assert len(trials) >= 9  # of 24 photos, most


def test_same_is_true_half_the_time_and_a_third_is_the_control(gallery: Gallery) -> None:
    cells: Counter[tuple[str, str]] = Counter()
    for seed in range(30):
        for trial in deal(gallery, "same", bytes([seed]), 6):
            assert "untouched" in (trial.left.form, trial.right.form)
            assert (trial.left.person == trial.right.person) == (trial.truth == "same")
            forms = {trial.left.form, trial.right.form}
            assert forms == ({"released", "untouched"} if trial.condition == "released" else {"untouched"})
            cells[trial.condition, trial.truth] += 1
    assert cells == {
        ("released", "same"): 60, ("released", "different"): 60,
        ("untouched", "same"): 30, ("untouched", "different"): 30,
    }  # fmt: skip


def test_sides_and_order_say_nothing(gallery: Gallery) -> None:
    truths = [[trial.truth for trial in deal(gallery, "real", bytes([seed]), 10)] for seed in range(100)]
    share = wilson(sum(truth == "left" for row in truths for truth in row), 1000)
    assert share.low < 0.5 < share.high
    assert len({tuple(row) for row in truths}) > 80


def test_the_seed_alone_decides(folder: Path, gallery: Gallery) -> None:
    assert deal(gallery, "same", b"one", 6) == deal(read_gallery(folder), "same", b"one", 6)
    assert deal(gallery, "same", b"one", 6) != deal(gallery, "same", b"two", 6)


def test_without_identities_there_is_no_second_task(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "faces", 2, 2)
    (folder / "identities.txt").unlink()
    gallery = read_gallery(folder)
    assert deal(gallery, "same", b"", 5) == []
    assert len(deal(gallery, "real", b"", 5)) == 2


def test_a_release_that_gained_a_suffix_is_still_the_same_photo(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "faces", 2, 2)
    for path in (folder / "released").iterdir():
        path.rename(path.with_name(path.stem + ".heic.png"))
    gallery = read_gallery(folder)
    assert {p.photo for p in gallery.of("released")} == {p.photo for p in gallery.of("untouched")} == set("0123")
    assert all(picture.person is not None for picture in gallery.pictures)


def test_a_folder_that_cannot_be_used_is_told_before_anybody_asks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="released"):
        turing.check(TuringConfig(folder=tmp_path))
    folder = make_folder(tmp_path / "faces", 2, 2)
    with pytest.raises(ConfigError, match="beside released photos"):
        turing.check(TuringConfig(folder=folder, answers=folder / "answers.sqlite"))
    (folder / "identities.txt").write_text("0.png 1\nalone\n")
    with pytest.raises(ConfigError, match="line 2"):
        turing.check(TuringConfig(folder=folder, answers=tmp_path / "a.sqlite"))
    (folder / "identities.txt").unlink()
    (folder / "released" / "9.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"9\.png is none"):
        turing.check(TuringConfig(folder=folder, answers=tmp_path / "a.sqlite"))
    turing.check(TuringConfig())  # none is wanted


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "faces", 2, 2)
    Image.new("RGB", (90, 90)).save(tmp_path / "secret.png")
    (folder / "released" / "link.png").symlink_to(tmp_path / "secret.png")
    assert not [picture for picture in read_gallery(folder).pictures if "link" in picture.name]


# --- statistics


def test_the_tally_is_wilson_s_beside_chance() -> None:
    answers = [Answer("one", "real", "released", "left", "left" if i < 14 else "right") for i in range(20)]
    (finding,) = tally(answers)
    expected = wilson(14, 20)
    assert (finding.rate.value, finding.rate.low, finding.rate.high) == (expected.value, expected.low, expected.high)
    assert (finding.chance, finding.tests, finding.rate.trials) == (0.5, 1, 20)


def test_raters_who_disagree_widen_the_interval() -> None:
    answers = [Answer(str(rater), "real", "released", "left", "left" if rater % 2 else "right")
               for rater in range(6) for _ in range(20)]  # fmt: skip
    (finding,) = tally(answers)
    assert finding.rate.high - finding.rate.low > 2 * (wilson(60, 120).high - wilson(60, 120).low)


def test_the_control_and_both_kinds_of_answers_stand_apart() -> None:
    answers = [
        Answer("a", "same", condition, truth, "same")
        for condition, truth in (("released", "same"), ("released", "different"), ("untouched", "same"))
    ]  # fmt: skip
    found = {(f.condition, f.measure): f for f in tally(answers)}
    assert found["released", "correct"].rate.value == 0.5
    assert found["released", "same_if_same"].rate.value == found["released", "same_if_different"].rate.value == 1
    assert found["released", "same_if_same"].chance is None
    assert found["untouched", "correct"].rate.value == 1
    assert found["untouched", "same_if_different"].rate.trials == 0
    assert tally([]) == []


# --- answers


def test_answers_are_kept_once_in_a_private_file(tmp_path: Path, gallery: Gallery) -> None:
    answers = Answers(tmp_path / "private" / "answers.sqlite", tmp_path / "faces")
    trial = deal(gallery, "real", b"", 1)[0]
    assert answers.all() == []
    assert answers.add("t", "real", 1, trial, "left", 2.5)
    assert not answers.add("t", "real", 1, trial, "right", None)
    assert answers.add("t", "real", 2, trial, "right", None)
    assert [given.answer for given in answers.of("t")] == ["left", "right"]
    assert stat.S_IMODE(answers.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(answers.path.parent.stat().st_mode) == 0o700
    rows = list(csv.DictReader(io.StringIO(answers.csv())))
    assert [row["answer"] for row in rows] == ["left", "right"]
    assert rows[0]["left"] == trial.left.name


# --- over HTTP


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = TuringConfig(folder=folder, trials=5, answers=tmp_path_factory.mktemp("a") / "answers.sqlite")
    with running(application(settings)) as address:
        yield address


def application(settings: TuringConfig) -> FastAPI:
    def operator(request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            raise Problem("no-key")

    app = FastAPI()
    app.include_router(turing.router(settings, SECRET, operator))
    app.add_exception_handler(Problem, lambda _, error: error.response())  # type: ignore[attr-defined]
    app.add_exception_handler(RequestValidationError, lambda *_: Problem("bad-parameter").response())
    return app


def ask(address: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any, dict[str, str]]:
    """(status, JSON or bytes, headers)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/v1/turing{path}", data, {"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        content, headers = answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    return answer.status, json.loads(content) if "json" in headers["content-type"] else content, headers


def begin(address: str, task: str = "real") -> str:
    return str(ask(address, "/tests", {"task": task})[1]["test"])


def test_a_whole_test_and_its_results(address: str) -> None:
    assert ask(address, "")[1] == {"tasks": {"real": 5, "same": 5}}
    status, started, _ = ask(address, "/tests", {"task": "real"})
    assert (status, started["trials"], started["task"]) == (201, 5, "real")
    test, right = started["test"], 0
    assert ask(address, f"/tests/{test}/score")[0] == 409
    for number in range(1, 6):
        _, picture, _ = ask(address, f"/tests/{test}/pictures/{number}/left")
        red, _, blue = Image.open(io.BytesIO(picture)).convert("RGB").getpixel((5, 5))  # type: ignore[misc]
        assert min(red, blue) < 30
        right += red > blue
        status, progress, _ = ask(address, f"/tests/{test}/answers/{number}", {"answer": "left", "seconds": 1.5})
        assert (status, progress) == (201, {"answered": number, "trials": 5})
    _, score, _ = ask(address, f"/tests/{test}/score")
    rate = wilson(right, 5)
    assert (score["correct"], score["trials"], score["share"], score["chance"]) == (right, 5, right / 5, 0.5)
    assert (score["low"], score["high"]) == (rate.low, rate.high)
    findings = [f for f in ask(address, "/results", key=KEY)[1] if f["task"] == "real"]
    assert findings[0]["rate"]["value"] == right / 5
    rows = list(csv.DictReader(io.StringIO(ask(address, "/results.csv", key=KEY)[1].decode())))
    assert len([row for row in rows if row["test"] in test]) == 5


def test_nothing_tells_which_is_which(address: str, folder: Path) -> None:
    test = begin(address)
    sizes, kinds, told = set(), set(), test
    for number in range(1, 6):
        for side in ("left", "right"):
            _, picture, headers = ask(address, f"/tests/{test}/pictures/{number}/{side}")
            image = Image.open(io.BytesIO(picture))
            sizes.add(image.size)
            assert not image.getexif()
            assert not {"exif", "icc_profile", "comment"} & set(image.info)
            told += repr(headers)
            kinds.add(repr(sorted(headers.items() - {(name, headers[name]) for name in ("date", "content-length")})))
    assert sizes == {(70, 70)}
    assert len(kinds) == 1
    assert not [word for word in ("released", "untouched", ".png", str(folder)) if word in told]


def test_others_answers_are_for_the_operator(address: str) -> None:
    for path in ("/results", "/results.csv"):
        assert ask(address, path)[0] == 401
        assert ask(address, path, key="a guess")[0] == 401


def test_wrong_answers_to_the_protocol_are_refused(address: str) -> None:
    test = begin(address)
    assert ask(address, f"/tests/{test}/answers/1", {"answer": "left"})[0] == 201
    cases: list[tuple[int, str, Any]] = [
        (409, f"/tests/{test}/answers/1", {"answer": "right"}),
        (422, f"/tests/{test}/answers/2", {"answer": "same"}),
        (422, f"/tests/{test}/answers/2", {"answer": "both"}),
        (422, f"/tests/{test}/answers/2", {"answer": "left", "seconds": -1}),
        (422, f"/tests/{test}/answers/2", {"answer": "left", "name": "Ada"}),
        (404, f"/tests/{test}/answers/0", {"answer": "left"}),
        (404, f"/tests/{test}/answers/6", {"answer": "left"}),
        (404, f"/tests/{test}x/answers/2", {"answer": "left"}),
        (404, f"/tests/{test.replace('real', 'same')}/answers/2", {"answer": "same"}),
        (404, "/tests/%F0%9F%99%82/answers/2", {"answer": "left"}),
        (404, "/tests/...../score", None),
        (422, f"/tests/{test}/pictures/1/middle", None),
        (404, f"/tests/{test}/pictures/1/..%2F..%2Fidentities.txt", None),
        (422, "/tests", {"task": "names"}),
    ]
    for status, path, body in cases:
        found, answer, _ = ask(address, path, body)
        assert found == status, path
        if path.count("..%2F") == 0:
            assert answer["remedy"], path
    table = ask(address, "/results.csv", key=KEY)[1].decode()
    assert table.count(test.split(".")[2]) == 1


def test_late_and_outdated_tests_are_over(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "faces", 2, 2)
    settings = TuringConfig(folder=folder, minutes=0.02, answers=tmp_path / "answers.sqlite")
    with running(application(settings)) as address:
        test = begin(address)
        time.sleep(2.3)  # whole seconds count
        status, problem, _ = ask(address, f"/tests/{test}/answers/1", {"answer": "left"})
        assert (status, problem["title"]) == (410, "The test is over")
    with running(application(settings)) as address:
        test = begin(address)
    Image.new("RGB", (90, 90)).save(folder / "untouched" / "new.png")
    with running(application(settings)) as address:
        assert ask(address, f"/tests/{test}/score")[0] == 410


def test_another_replica_asks_the_same_questions(address: str, folder: Path, tmp_path: Path) -> None:
    test = begin(address)
    with running(application(TuringConfig(folder=folder, trials=5, answers=tmp_path / "a.sqlite"))) as other:
        for side in ("left", "right"):
            path = f"/tests/{test}/pictures/3/{side}"
            assert ask(other, path)[1] == ask(address, path)[1]


def test_without_a_folder_or_with_a_broken_one_it_says_so_and_names_no_place(tmp_path: Path) -> None:
    with running(application(TuringConfig())) as address:
        status, problem, _ = ask(address, "")
        assert status == 404
        assert "serve.turing.folder" in problem["remedy"]
    with running(application(TuringConfig(folder=tmp_path / "gone"))) as address:
        status, problem, headers = ask(address, "")
        assert (status, headers["content-type"]) == (503, "application/problem+json")
        assert str(tmp_path) not in repr(problem)
