"""The page at `/`, driven as a visitor does."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import NARROW, Browser
from tests.browser.service import Watched

PIXEL = """
const [id, x, y] = arguments, image = document.getElementById(id), canvas = document.createElement("canvas");
Object.assign(canvas, {width: image.naturalWidth, height: image.naturalHeight});
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0);
return [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
"""
TABLE = "#attributes tbody tr"
ROWS = f"return Array.from(document.querySelectorAll('{TABLE}'), (r) => [...r.cells].map((c) => c.textContent))"
EPSILON = "#how .figures dd"
RANGE = "return document.getElementById('epsilon').valueAsNumber"


def post(address: str, path: str, photo: Path) -> Any:
    """The API's answer, without the page."""
    headers = {"Accept": "application/json", "Content-Type": "image/png"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/v1/{path}", photo.read_bytes(), headers)) as answer:
        return json.load(answer)


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    browser.open(address)
    browser.until(lambda: browser.text("#epsilon-value"), "the policy")
    return browser


def test_a_photo_in_its_release_and_the_three_answers_out(page: Browser, address: str, photos: dict[str, Path]) -> None:
    assert "surrounds it is not" in page.text("#now .verdict")  # before any photo: what the settings promise
    page.choose(photos["one"])
    page.until(lambda: page.shown("#attributes"), "the table")
    assert page.shown("#compare")
    assert page.js(PIXEL, "before", 0.5, 0.6) != page.js(PIXEL, "after", 0.5, 0.6)
    assert page.js(PIXEL, "before", 0.02, 0.02) == page.js(PIXEL, "after", 0.02, 0.02)
    assert page.text(EPSILON) == "10"
    assert "22,026" in page.text("#how .figures")
    assert page.all("#more .steps button")
    assert page.find("#download").get_attribute("download") == "de-identified.png"  # not the name of the original
    assert page.text("#status").startswith("One face painted anew")
    assert page.console() == []
    assert page.js("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    outside = [url for url in page.requests() if not url.startswith((address, "blob:", "data:", "about:"))]
    assert outside == []


def test_the_table_shows_what_was_read_and_what_was_released(
    page: Browser, address: str, photos: dict[str, Path]
) -> None:
    page.choose(photos["one"])
    page.until(lambda: page.shown("#attributes"), "the table")
    answer = post(address, "anonymize?epsilon=10&strength=1", photos["one"])["faces"][0]
    read = post(address, "attributes", photos["one"])["faces"][0]
    assert len(page.all("#painted tbody tr")) == 25
    assert len(page.all("#outside tbody tr")) == 15
    cells = {name: values for name, *values in page.js(ROWS)}
    for name, title in (("Male", "Male"), ("Big_Nose", "Big nose"), ("Wearing_Hat", "Wearing hat")):
        before, after = cells[title]
        was, share = read["attributes"][name], read["probabilities"][name]
        assert before == f"{'yes' if was else 'no'}{share:.0%}".replace("%", " %")
        assert after.split("changed")[0] == ("yes" if answer["released"][name] else "no")
        assert after.endswith("changed") == (was != answer["released"][name])


def test_sliders_ask_once_they_rest_and_the_answers_follow(
    page: Browser, service: Watched, photos: dict[str, Path]
) -> None:
    page.choose(photos["one"])
    start = page.js(RANGE)
    page.find("#epsilon").send_keys(Keys.ARROW_RIGHT * 4)
    assert page.js("return document.body.dataset.state") == "working"
    assert not page.shown("#download")
    page.until_state("done")
    assert page.js(RANGE) == start + 4
    assert len(service.asked) == 2  # the photo's own, and one for four steps
    assert service.asked[1]["epsilon"] < service.asked[0]["epsilon"]
    assert page.text(EPSILON) == f"{service.asked[1]['epsilon']:g}"
    page.find("#strength").send_keys(Keys.ARROW_LEFT)
    page.until_state("working")
    page.until_state("done")
    assert service.asked[-1]["strength"] == 0.8
    assert "one colour" in page.text("#now .verdict")
    assert "none about pixels" in page.text("#how .verdict")
    page.find("#perturbation").send_keys(Keys.END)
    page.until_state("working")
    page.until_state("done")
    assert service.asked[-1]["perturbation"] == pytest.approx(10 / 255)
    assert page.console() == []


def test_a_late_answer_never_replaces_a_newer_one(page: Browser, service: Watched, photos: dict[str, Path]) -> None:
    page.choose(photos["one"])
    service.delays = [1.5]
    page.find("#epsilon").send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: len(service.asked) == 2, "the slow request")
    page.find("#epsilon").send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: len(service.asked) == 3, "the quick request")
    page.until_state("done")
    newest = f"{service.asked[2]['epsilon']:g}"
    assert page.text(EPSILON) == newest
    page.until(lambda: service.finished == 3, "the slow answer")
    assert page.text(EPSILON) == newest


def test_a_suggested_step_sets_its_slider(page: Browser, service: Watched, photos: dict[str, Path]) -> None:
    page.choose(photos["one"])
    step = page.find("#more .steps button")
    assert step.text == "Epsilon 1"
    step.click()
    page.until_state("working")
    page.until_state("done")
    assert service.asked[-1]["epsilon"] == 1
    assert page.focused() == "epsilon"  # the button is gone; the keyboard goes on from its slider
    assert "strong" in page.text("#how .verdict")


def test_several_faces_each_have_their_table(page: Browser, photos: dict[str, Path]) -> None:
    page.choose(photos["three"])
    page.until(lambda: page.shown("#faces"), "the choice of a face")
    assert [label.text for label in page.all("#faces label")] == ["1", "2", "3"]
    tables = set()
    for i in range(3):
        page.all("#faces input")[i].click()
        tables.add(page.text("#painted"))
    assert len(tables) == 3
    assert page.text("#status").startswith("3 faces")


@pytest.mark.parametrize(("photo", "title"), [("letter", "This is not a photo"), ("none", "No face was found")])
def test_a_refusal_is_told_with_its_remedy_and_shows_no_release(
    page: Browser, photos: dict[str, Path], photo: str, title: str
) -> None:
    page.choose(photos["one"])
    page.choose(photos[photo])
    page.until_state("error")
    assert page.text("#problem-title") == title
    assert page.text("#problem-remedy")
    for part in ("#compare", "#download", "#attributes", "#again"):
        assert not page.shown(part)
    page.choose(photos["one"])
    page.until_state("done")
    assert not page.shown("#problem")


def test_a_file_beyond_the_limit_is_not_even_sent(page: Browser, service: Watched, photos: dict[str, Path]) -> None:
    page.choose(photos["huge"])
    assert page.text("#problem-title") == "The file is too large"
    assert "3.8 MB" in page.text("#problem-detail")
    assert service.asked == []


def test_a_key_is_asked_for_and_kept_in_memory_only(
    browser: Browser, locked_address: str, key: tuple[Path, str], photos: dict[str, Path]
) -> None:
    browser.open(locked_address)
    browser.until(lambda: browser.shown("#key-form"), "the question for a key")
    browser.choose(photos["one"])
    assert browser.text("#problem-title") == "An API key is needed"
    browser.find("#key").send_keys("a guess" + Keys.ENTER)
    browser.until(lambda: browser.text("#problem-title") == "The API key is not known", "the refusal")
    browser.find("#key").clear()
    browser.find("#key").send_keys(key[1] + Keys.ENTER)
    browser.until_state("done")
    browser.until(lambda: browser.shown("#attributes"), "the table")
    assert not [url for url in browser.requests() if key[1] in url]
    assert browser.js("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_the_keyboard_alone_is_enough(page: Browser, service: Watched) -> None:
    page.press(Keys.TAB)
    assert page.focused() == "Skip to the photo"
    page.tab_to("sample")
    page.press(Keys.ENTER)
    page.until_state("done")
    page.tab_to("cut")
    page.press(Keys.HOME, Keys.ARROW_RIGHT)
    assert page.find("#curtain").value_of_css_property("clip-path") == "inset(0px 99% 0px 0px)"
    page.tab_to("download")
    page.tab_to("epsilon")
    page.press(Keys.ARROW_RIGHT)
    page.until_state("working")
    page.until_state("done")
    assert len(service.asked) == 2
    page.js("document.getElementById('download').focus()")
    page.tab_to("another")
    page.press(Keys.ENTER)
    assert page.focused() == "choose"


def test_a_picture_from_the_camera(page: Browser, service: Watched) -> None:
    page.find("#camera").click()
    page.until(lambda: page.js("return document.getElementById('video').videoWidth"), "the camera's picture")
    page.find("#snap").click()
    page.until_state("error")  # the fake camera shows nobody
    assert page.text("#problem-title") == "No face was found"
    assert len(service.asked) == 1


def test_nothing_sticks_out_at_390_pixels(browser: Browser, address: str, photos: dict[str, Path]) -> None:
    browser.open(address, NARROW)
    browser.until(lambda: browser.text("#epsilon-value"), "the policy")
    assert browser.overflow() <= 0
    browser.choose(photos["letter"])
    assert browser.overflow() <= 0
    browser.choose(photos["three"])
    browser.until(lambda: browser.shown("#attributes"), "the table")
    browser.js("document.getElementById('record').open = true")
    assert browser.overflow() <= 0
    for path in ("turing", "turing/results"):
        browser.open(f"{address}/{path}", NARROW)
        browser.until(lambda: browser.js("return document.readyState") == "complete", "the page")
        assert browser.overflow() <= 0


WORDS = """
const done = arguments[arguments.length - 1];
import(new URL("assets/words.js", location)).then((words) => done(%s), (error) => done(String(error)));
"""
POLICY = """{epsilon: {default: %s, min: %s, max: 20}, strength: {default: 1, allowed: [%s]},
             perturbation: {default: 0.02, max: %s}}"""


def test_the_words_hold_at_the_edges(page: Browser) -> None:
    def ask(code: str) -> Any:
        return page.driver.execute_async_script(WORDS % code)

    face = "{epsilon: %s, strength: %s, perturbation: 0.04, t: 0.1}"
    usual = POLICY % (10, 0.1, "0.2, 0.8, 1", 0.04)
    assert ask(f"words.isItPrivate({face % (3, 0)}, {{}})")["verdict"].startswith("No: people stay recognisable")
    assert ask(f"words.isItPrivate({face % ('null', 1)}, {{}})")["level"] == "bad"
    assert ask(f"words.isItPrivate({face % (10, 1)}, {{}})")["words"][-1].endswith(
        "know the photo."
    )  # nothing measured
    assert ask(f"words.howPrivate({face % ('null', 1)})")["verdict"] == "Not at all"
    below = ask(f"words.howPrivate({face % (1, 0.8)})")
    assert (below["level"], below["words"][0].endswith("far more.")) == ("bad", True)  # no promise about pixels
    kept = ask("words.howPrivate({epsilon: 1, strength: 1, t: 0.1, kept: ['Big_Nose']})")
    assert "kept as they are (Big nose)" in kept["words"][1]
    head = ask("words.howPrivate({epsilon: 1, strength: 1, t: 0.1, region: 'head'})")["words"][1]
    assert "every pixel of the painted head" in head
    rate = "{released: 0, interval: [0, 0]}"
    of_faces = f"{{region: 'face', recogniser_names: {rate}, retrained_names: {rate}, faces: 1}}"
    assert [
        len(ask(f"words.isItPrivate({{epsilon: 9, strength: 1, region: '{region}'}}, {of_faces})")["words"])
        for region in ("face", "head")
    ] == [2, 1]  # what was measured on faces says nothing of heads
    assert "ears" not in head
    assert "synthesize.region=head" in ask(f"words.more({face % (0.1, 1)}, {usual})")["words"][0]
    assert ask(f"words.more({face % (0.1, 1)}, {usual})")["steps"] == []
    assert [s["value"] for s in ask(f"words.more({face % (15, 0.2)}, {usual})")["steps"]] == [1, 10]
    strict = POLICY % ("null", 2, "1", 0.02)
    assert [s["value"] for s in ask(f"words.more({face % (5, 1)}, {strict})")["steps"]] == [2]
    stops = ask(f"words.stops({strict})")
    assert stops["epsilon"] == [20, 15, 10, 7, 5, 3, 2]
    assert stops["strength"] == [1]
    assert ask(f"words.starts({strict})")["epsilon"] == 10


def test_every_control_has_a_name_and_every_page_its_landmarks(page: Browser, address: str) -> None:
    unnamed = """return [...document.querySelectorAll("button, input, a, img, select, output")].filter(
        (e) => e.offsetParent && !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.hasAttribute("alt"))
    ).map((e) => e.outerHTML)"""
    for path in ("", "turing", "turing/results"):
        page.open(f"{address}/{path}")
        page.until(lambda: page.js(unnamed) == [], f"a name for every control of /{path}")
        assert page.js("return document.querySelectorAll('main').length") == 1
        assert page.js("return document.querySelectorAll('h1').length") >= 1
        assert page.js("return document.documentElement.lang") == "en"
