"""Headless Chromium, and the service that it looks at. Without Chromium these tests are left out, loudly."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from anonymousnet.config import Config
from anonymousnet.data.synthetic import render_face, render_page
from anonymousnet.serve.keys import new_key
from anonymousnet.serve.turing_answers import Answers
from tests.browser.service import Watched, applications, running

SECONDS = 30
WIDE, NARROW = (1280, 800), (390, 844)


class Browser:
    """A tab, and what a person does in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str, size: tuple[int, int] = WIDE) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(address)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def shown(self, selector: str) -> bool:
        return self.find(selector).is_displayed()

    def js(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> str:
        """The id of what has the focus, or its text, or its tag."""
        return str(self.js("const e = document.activeElement; return e.id || e.textContent.trim() || e.tagName"))

    def tab_to(self, name: str, most: int = 40) -> None:
        """Tab until `name` has the focus."""
        for _ in range(most):
            if self.focused() == name:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{name} is out of the keyboard's reach; the focus is on {self.focused()}")

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen in {SECONDS} s; console: {self.console()}"
            time.sleep(0.02)

    def until_state(self, state: str) -> None:
        self.until(lambda: self.js("return document.body.dataset.state") == state, f"state {state}")

    def choose(self, photo: Path) -> None:
        """Pick a file, and wait for what comes of it."""
        self.find("#file").send_keys(str(photo))
        self.until(lambda: self.js("return document.body.dataset.state") in ("done", "error"), "an answer")

    def console(self) -> list[str]:
        """Errors and warnings since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def overflow(self) -> int:
        """Pixels that one would have to scroll sideways."""
        return int(self.js("return document.documentElement.scrollWidth - innerWidth"))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chauffeur = shutil.which("chromedriver")
    if binary is None or chauffeur is None:
        reason = "no Chromium here: run `make browser`, or apt-get install chromium chromium-driver"
        warnings.warn(f"LEFT OUT: browser tests; {reason}", stacklevel=1)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--use-fake-device-for-media-stream",
                     "--use-fake-ui-for-media-stream"):  # fmt: skip
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(chauffeur))
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Browser:
    """A tab with empty logs."""
    driver.get("about:blank")
    browser = Browser(driver)
    browser.console()
    browser.requests()
    return browser


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rendered faces, and files that are no photos of faces."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(render_face(1, 256).image).save(folder / "one.png")
    Image.fromarray(render_page(3, faces=3, width=640)[0]).save(folder / "three.jpg", quality=92)
    Image.new("RGB", (200, 200), "teal").save(folder / "none.png")
    (folder / "letter.pdf").write_bytes(b"%PDF-1.4 a letter")
    (folder / "huge.jpg").write_bytes(b"\xff\xd8" + bytes(4_100_000))
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def turing_folder(tmp_path_factory: pytest.TempPathFactory, small_weights: list[str]) -> Path:
    """24 rendered faces of 6 people, released and untouched."""
    from anonymousnet.anonymizer import Anonymizer

    folder = tmp_path_factory.mktemp("turing")
    anonymizer = Anonymizer.load(Config.load(None, small_weights))
    for form in ("released", "untouched"):
        (folder / form).mkdir()
    lines = []
    for number in range(24):
        face = render_face(100 + number, 160, identity=200 + number % 6)
        Image.fromarray(face.image).save(folder / "untouched" / f"{number}.png")
        anonymizer(face.image).photo.save(folder / "released" / f"{number}.png")
        lines.append(f"{number}.png {number % 6}\n")
    (folder / "identities.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def _settings(small_weights: list[str], turing_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    answers = tmp_path_factory.mktemp("answers") / "answers.sqlite"
    return Config.load(None, [
        *small_weights, "serve.fused=true", "serve.max_bytes=4000000", f"serve.turing.folder={turing_folder}",
        "serve.turing.trials=6", f"serve.turing.answers={answers}",
    ])  # fmt: skip


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of API keys, and the one key in it."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return file, new_key(file, "tester")


@pytest.fixture(scope="session")
def _running(_settings: Config, key: tuple[Path, str]) -> Iterator[tuple[Watched, str, str]]:
    locked = _settings.model_copy(update={"serve": _settings.serve.model_copy(update={"keys": key[0]})})
    with pytest.MonkeyPatch.context() as patch:
        # `serve.batch` asks for its replica only to warn about settings, and in local mode there is none.
        patch.setattr(
            "ray.serve.batching._BatchQueue._warn_if_max_batch_size_exceeds_max_ongoing_requests", lambda _: None
        )
        free, asks_for_keys = (Watched(app) for app in applications(_settings, locked))
        with running(free) as address, running(asks_for_keys) as locked_address:
            yield free, address, locked_address


@pytest.fixture
def service(_running: tuple[Watched, str, str], _settings: Config) -> Watched:
    """The service, as good as new."""
    service = _running[0]
    service.delays, service.asked, service.finished = [], [], 0
    _settings.serve.turing.answers.unlink(missing_ok=True)
    return service


@pytest.fixture
def answers(_settings: Config) -> Answers:
    """What raters said."""
    return Answers(_settings.serve.turing.answers, Path("nowhere"))


@pytest.fixture
def address(service: Watched, _running: tuple[Watched, str, str]) -> str:
    """Where whoever reaches the port may use it."""
    return _running[1]


@pytest.fixture
def locked_address(service: Watched, _running: tuple[Watched, str, str]) -> str:
    """The same where a key is needed."""
    return _running[2]
