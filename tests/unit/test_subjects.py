"""Lists of subjects as editors and spreadsheets write them: the names match, or it is said which did not."""

from __future__ import annotations

import pickle
import unicodedata
from pathlib import Path

import pytest

from anonymousnet.data.subjects import Subjects, read_subjects
from anonymousnet.errors import ConfigError, UnnamedSubject

NFC, NFD = unicodedata.normalize("NFC", "Zoë.jpg"), unicodedata.normalize("NFD", "Zoë.jpg")


def listed(folder: Path, text: str | bytes) -> Subjects:
    (folder / "who").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_subjects(folder / "who")


ALIKE = {
    "blank": "first.jpg jane\nJane Doe 1.jpg jane\n",
    "byte order mark": "\ufefffirst.jpg jane\nJane Doe 1.jpg jane\n",
    "windows": "first.jpg jane\r\nJane Doe 1.jpg jane\r\n\r\n",
    "tab": "first.jpg\tjane\nJane Doe 1.jpg\tjane\n",
    "CSV": "first.jpg,jane\nJane Doe 1.jpg,jane\n",
    "CSV with a first line": 'Photo,Subject\nfirst.jpg,jane\n"Jane Doe 1.jpg",jane',
    "folders": "./first.jpg jane\n./Jane Doe 1.jpg jane\n",
    "twice the same": "first.jpg jane\nfirst.jpg jane\nJane Doe 1.jpg jane\n",
}


@pytest.mark.parametrize("text", ALIKE.values(), ids=ALIKE)
def test_every_form_says_the_same(tmp_path: Path, text: str) -> None:
    assert dict(listed(tmp_path, text)) == {"first.jpg": "jane", "Jane Doe 1.jpg": "jane"}


def test_the_separator_is_the_one_that_leaves_photos(tmp_path: Path) -> None:
    assert dict(listed(tmp_path, "Doe, Jane.jpg jane\nRoe, Rob.png rob\n")) == {
        "Doe, Jane.jpg": "jane", "Roe, Rob.png": "rob",
    }  # fmt: skip
    assert dict(listed(tmp_path, "a b.jpg,Jane Doe\nc.jpg,Rob Roe\n")) == {"a b.jpg": "Jane Doe", "c.jpg": "Rob Roe"}
    assert dict(listed(tmp_path, '"Doe, Jane.jpg",jane\nc.jpg,rob\n')) == {"Doe, Jane.jpg": "jane", "c.jpg": "rob"}
    assert dict(listed(tmp_path, "000001.jpg 2880\n000002.jpg 2937\n")) == {"000001.jpg": "2880", "000002.jpg": "2937"}


def test_names_are_one_in_either_of_unicodes_forms(tmp_path: Path) -> None:
    for line in (NFC, NFD):
        subjects = listed(tmp_path, f"{line} Zoë\n")
        assert (
            subjects.of(NFC)
            == subjects.of(NFD)
            == subjects.of(f"deep/{NFD}", NFD)
            == unicodedata.normalize("NFC", "Zoë")
        )


WRONG = {
    "one word": ("a.jpg ann\nonly\n", "check line 2"),
    "nobody": ("a.jpg,\n", "check line 1"),
    "lines that disagree": ("\n\na.jpg ann\nb.jpg bob\na.jpg bob\n", "lines 3 and 5"),
    "another encoding": ("a.jpg ann\n".encode("utf-16"), "expected UTF-8.*0xff; save it so"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_read_is_told(tmp_path: Path, case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        listed(tmp_path, text)
    with pytest.raises(ConfigError, match="cannot read"):
        read_subjects(tmp_path / "nowhere")


def test_a_photo_that_nobody_names_spends_no_budget_of_anybodys(tmp_path: Path) -> None:
    subjects = pickle.loads(pickle.dumps(listed(tmp_path, "a.jpg ann\n")))
    assert subjects.of("deep/a.jpg", "a.jpg", budget=10) == "ann"
    assert subjects.of("b.jpg") is None
    with pytest.raises(UnnamedSubject, match="add a line"):
        subjects.of("b.jpg", budget=10)
    with pytest.raises(UnnamedSubject):
        listed(tmp_path, "").of("b.jpg", budget=10)
    assert read_subjects(None).of("b.jpg", budget=10) is None, "without a list every photo is its own subject"


def test_several_subjects_are_those_of_the_faces(tmp_path: Path) -> None:
    for text in ("a.jpg\tann\tberta\nb.jpg\tcarl\n", "a.jpg,ann,berta\nb.jpg,carl\n"):
        (tmp_path / "who").write_text(text)
        assert read_subjects(tmp_path / "who").of("a.jpg") == "ann\tberta"
        assert read_subjects(tmp_path / "who").of("b.jpg") == "carl"
