"""The privacy report: self-contained, public evidence only, honest about what does not hold."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES, OUTSIDE_FACE
from anonymousnet.faces import PublicEvidence
from anonymousnet.report.release import Outcome, ShownFace, release_page

HOSTILE = "<script>alert(1)</script>\" onerror='x'.jpg"
PEOPLE = {name: (i + 1) / 50 for i, name in enumerate(ATTRIBUTES)}
RELEASED = {name: (40 - i) / 50 for i, name in enumerate(ATTRIBUTES)}


def summary(**changes: object) -> Outcome:
    made = Outcome(
        photos=12, released=9, quarantined=3, faces=11, epsilon=10.0,
        photo_epsilon=110 / 9, max_photo_epsilon=30.0, t=0.17, strength=1.0,
        guarantee="WORDS OF THE MECHANISM", reasons={"NoFaceFound": 2, "TruncatedImage": 1},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def shown(photo: str = "a/one.jpg", strength: float = 1.0) -> ShownFace:
    released = {name: name in ("Smiling", "Black_Hair", "5_o_Clock_Shadow") for name in ATTRIBUTES}
    public = PublicEvidence(
        released=released, epsilon=10.0, photo_epsilon=30.0, account="this photo", t=0.17,
        covers="WORDS OF THE MECHANISM",
        unprotected=tuple(sorted(OUTSIDE_FACE)), strength=strength, region="face", perturbation=10 / 255,
        weights={"generator": "ab" * 32, "attributes": "cd" * 32},
        precision="cpu-bfloat16",
    )  # fmt: skip
    return ShownFace(photo, "/9j/4AAQ", 64, public)


def page(made: Outcome | None = None, faces: list[ShownFace] | None = None, config: Config | None = None) -> str:
    made = made or summary()
    released = RELEASED if made.faces else {}
    return release_page(made, [shown()] if faces is None else faces, config or Config(), released, PEOPLE)


def plain(html: str) -> str:
    """What a reader sees: no tags, single spaces."""
    body = re.sub(r"<style>.*?</style>", " ", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split())


class Outline(HTMLParser):
    """Counts tags and collects attributes; fails on tags closed in the wrong order."""

    VOID = ("meta", "img", "rect", "circle", "line")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_headline_and_reasons_in_plain_words() -> None:
    text = plain(page())
    assert "9 of 12 photos released, 11 faces replaced" in text
    assert "no face was found, so nothing could be protected: 2 photos" in text
    assert "the file stops before its picture does: 1 photo" in text
    assert "NoFaceFound" not in text


def test_an_unforeseen_reason_is_named_not_lost() -> None:
    assert "another fault (ValueError): 3 photos" in plain(page(summary(reasons={"ValueError": 3})))


def test_nothing_private() -> None:
    settings = ["release.key_file=/home/alice/SECRET/key", "predict.weights=/home/alice/mine",
                "obfuscate.population=/home/alice/people.json"]  # fmt: skip
    html = page(config=Config.load(None, settings)).lower()
    for word in ("alice", "secret/", "key_file", "out-private", "probabilit", "similarity", "changed", "audit"):
        assert word not in html, word
    assert "people.json" in html


def test_hostile_names_are_text() -> None:
    html = page(faces=[shown(HOSTILE)], config=Config.load(None, ["release.name='<img src=x>'"]))
    tags = Outline(html).seen
    assert "script" not in {tag for tag, _ in tags}
    assert [a["alt"] for tag, a in tags if tag == "img"] == [
        "Released face 1, painted by a network: 5 o Clock Shadow, Smiling, Black Hair"
    ]
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_name_that_is_not_utf8_still_makes_a_page() -> None:
    assert "caf?.jpg" in page(faces=[shown("caf\udce9.jpg")])


def test_fetches_nothing() -> None:
    html = page()
    assert "http:" not in html
    assert "https:" not in html
    assert "//" not in re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", html)
    assert "url(" not in html
    tags = Outline(html).seen
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "a", "form"})
    assert all((a["src"] or "").startswith("data:image/") for tag, a in tags if tag == "img")
    assert any("default-src 'none'" in (a.get("content") or "") for _, a in tags)


def test_accessible_outline() -> None:
    tags = Outline(page()).seen
    headings = [tag for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(a.get("scope") for tag, a in tags if tag == "th")
    assert all(a.get("alt") for tag, a in tags if tag == "img")
    assert ("html", {"lang": "en"}) in tags
    ids = {a["id"] for _, a in tags if "id" in a}
    assert all(a["aria-labelledby"] in ids for _, a in tags if "aria-labelledby" in a)


def test_shares_of_all_faces_stand_beside_the_population() -> None:
    text = plain(page())
    assert "Smiling 64.0 % 18.0 %" in text  # population 32/50, released 9/50
    assert "78 percentage points" in text


def test_strength_one_carries_no_warning_about_it() -> None:
    text = plain(page())
    assert "guarantee for pixels does not hold" not in text
    assert "WORDS OF THE MECHANISM" in text
    assert "a network that never saw it" in text


@pytest.mark.parametrize("strength", [0.8, 0.2, 0.0])
def test_lower_strength_warns(strength: float) -> None:
    config = Config.load(None, [f"synthesize.strength={strength}"])
    text = plain(page(summary(strength=strength), [shown(strength=strength)], config))
    assert "Warning: the guarantee for pixels does not hold" in text
    assert f"strength {strength:g}" in text
    assert "never saw it" not in text
    assert ("15 of the 40 attributes show outside" in text) == (strength > 0)


def test_kept_attributes_warn() -> None:
    text = plain(page(config=Config.load(None, ["obfuscate.keep=[Smiling, Male]"])))
    assert "Warning: 2 attributes released as they are" in text
    assert "40 attributes released for a face, except Smiling, Male" in text


def test_infinite_epsilon_promises_nothing() -> None:
    text = plain(page(summary(epsilon=math.inf)))
    assert "Warning: no attribute was protected" in text
    assert "by a factor of" not in text


def test_says_that_recognition_was_not_measured() -> None:
    assert "Not measured here: whether a face recogniser still matches" in plain(page())


def test_nothing_released() -> None:
    none = summary(released=0, faces=0, quarantined=12, epsilon=0.0, t=0.0, guarantee="nothing was released")
    text = plain(page(none, []))
    assert "Nothing was released: all 12 photos were withheld" in text
    assert "No face was released, so there is nothing to measure" in text


def test_weights_and_settings_are_on_record() -> None:
    html = page()
    assert "ab" * 32 in html
    assert "cpu-bfloat16" in html
    assert "synthesize.strength" in html
    assert "train." not in html


def test_a_release_of_heads_says_what_is_left_of_the_person() -> None:
    face, head = (plain(page(config=Config.load(None, [f"synthesize.region={region}"]))) for region in ("face", "head"))
    assert "from the eyebrows to the chin" in face
    assert "Everything outside the painted region: hair, ears, clothes" in face
    assert "from the top of the hair to the chin, ears included" in head
    assert "Everything outside the painted region: long hair, neck, clothes" in head
    assert "15 of the 40 attributes show outside" in face
    assert "11 of the 40 attributes show outside" in head


def test_epsilon_of_a_photo_and_whose_it_is() -> None:
    text = plain(page())
    assert "epsilon of the photo with the most faces 30" in text
    assert "30 at most, 12.22 in the mean over all released photos" in text
    assert "this release kept no ledger" in text
    counted = Config.load(None, ["release.ledger=ledger"])
    assert "one person in two different photos has two accounts" in plain(page(config=counted))
    named = Config.load(None, ["release.ledger=ledger", "release.subjects=who"])
    assert "Each named person’s, over all faces and photos" in plain(page(config=named))
