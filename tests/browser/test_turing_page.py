"""The visual Turing test at `/turing`, taken to its end."""

from __future__ import annotations

import csv
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from anonymousnet.serve.turing_answers import Answers
from tests.browser.conftest import NARROW, WIDE, Browser

QUESTIONS = 6


def start(browser: Browser, address: str, task: str, size: tuple[int, int] = WIDE) -> None:
    browser.open(f"{address}/turing", size)
    browser.until(lambda: browser.shown(f"#offer-{task}"), "the offer")
    assert browser.overflow() <= 0
    browser.find(f"[data-task={task}]").click()


def wait_for(browser: Browser, number: int) -> None:
    """Until question `number` is there and its pictures too."""
    browser.until(lambda: browser.text("#count") == f"Question {number} of {QUESTIONS}", f"question {number}")
    browser.until(lambda: browser.js("return document.activeElement.id") == "question", "the pictures")


def test_which_one_is_real_by_keyboard(browser: Browser, address: str, answers: Answers) -> None:
    start(browser, address, "real")
    for number in range(1, QUESTIONS + 1):
        wait_for(browser, number)
        assert len(browser.all("#pair button img")) == 2
        browser.press("1" if number % 2 else Keys.ARROW_RIGHT)
    browser.until(lambda: browser.shown("#end"), "the end")
    given = answers.all()
    assert [answer.answer for answer in given] == ["left", "right"] * (QUESTIONS // 2)
    right = sum(answer.answer == answer.truth for answer in given)
    assert browser.text("#end-score") == f"{right} of {QUESTIONS} right"
    assert "95 % interval" in (browser.find("#end-interval").get_attribute("aria-label") or "")
    asked = browser.requests()
    assert not [url for url in asked if not url.startswith((address, "blob:", "data:", "about:"))]
    assert not [url for url in asked if any(word in url for word in ("released", "untouched", ".png"))]
    assert browser.console() == []
    browser.find("#more").click()
    browser.until(lambda: browser.shown("#offer"), "the offer again")


def test_the_same_person_by_touch_and_the_operator_s_results(
    browser: Browser, locked_address: str, key: tuple[Path, str], tmp_path: Path
) -> None:
    start(browser, locked_address, "same", NARROW)  # raters need no key
    for number in range(1, QUESTIONS + 1):
        wait_for(browser, number)
        assert browser.overflow() <= 0
        browser.find(f"[data-answer={'same' if number <= 3 else 'different'}]").click()
    browser.until(lambda: browser.shown("#end"), "the end")
    assert browser.console() == []

    browser.open(f"{locked_address}/turing/results", NARROW)
    browser.until(lambda: browser.shown("#key-form"), "the question for a key")
    assert browser.all("#findings section") == []
    browser.find("#key").send_keys("a guess" + Keys.ENTER)
    browser.until(lambda: browser.shown("#problem"), "the refusal")
    browser.find("#key").clear()
    browser.find("#key").send_keys(key[1] + Keys.ENTER)
    browser.until(lambda: browser.all("#findings section"), "the results")
    assert browser.overflow() <= 0
    text = browser.text("#findings")
    assert "Both untouched (control)" in text
    assert f"{2 * QUESTIONS // 3} answers in 1 test" in text
    assert "guessing: 50 %" in text

    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.find("#csv").click()
    file = tmp_path / "visual-turing-test.csv"
    browser.until(file.exists, "the download")
    rows = list(csv.DictReader(file.open()))
    given = {int(row["trial"]): row["answer"] for row in rows}
    assert given == {number: "same" if number <= 3 else "different" for number in range(1, QUESTIONS + 1)}
    assert {row["task"] for row in rows} == {"same"}


def test_an_interrupted_answer_is_sent_again_and_counts_once(browser: Browser, address: str, answers: Answers) -> None:
    start(browser, address, "real")
    wait_for(browser, 1)
    # The answer arrives, but what the service says to that does not.
    browser.js("""const real = window.fetch; window.fetch = async (url, options) => {
        const answer = await real(url, options);
        if (String(url).includes("/answers/")) { window.fetch = real; throw new TypeError("cut off"); }
        return answer;
    }""")
    browser.press("1")
    browser.until(lambda: browser.shown("#problem"), "the failure")
    browser.find("#again").click()
    wait_for(browser, 2)
    assert len(answers.all()) == 1


def test_a_test_that_is_over_leads_to_a_new_one(browser: Browser, address: str) -> None:
    start(browser, address, "real")
    wait_for(browser, 1)
    browser.js("""const real = window.fetch; window.fetch = (url, options) => {
        if (!String(url).includes("/answers/")) return real(url, options);
        window.fetch = real;
        return real(String(url).replace("real.", "same."), options);
    }""")  # a name that the server never signed
    browser.press("2")
    browser.until(lambda: browser.shown("#problem"), "the refusal")
    assert browser.text("#problem-title") == "No such visual Turing test"
    browser.find("#again").click()
    browser.until(lambda: browser.shown("#offer"), "the offer")
