"""The visual Turing test's questions and statistics: pure functions of a folder, a secret and a test's number.

Two tasks. `real`: a released and an untouched face, of different photos: which is a real photograph? (two-alternative
forced choice, chance one half). `same`: an untouched photo beside another photo, released or untouched: is it the same
person? (chance one half again: as many pairs show one person as two). Pairs of untouched photos are the control: what
people can do when nothing was changed.

Within one test no photo is shown twice, in either form: who saw a scene with another face in it would know.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from anonymousnet.data.images import PHOTO_SUFFIXES, find_photos
from anonymousnet.errors import ConfigError, StorageError
from anonymousnet.metrics.bootstrap import clustered
from anonymousnet.metrics.identity import Rate

T = TypeVar("T")
Task = Literal["real", "same"]
Form = Literal["released", "untouched"]
Choice = Literal["left", "right", "same", "different"]
Measure = Literal["correct", "same_if_same", "same_if_different"]
CHOICES: dict[Task, tuple[Choice, Choice]] = {"real": ("left", "right"), "same": ("same", "different")}
CHANCE = 0.5
LARGEST_PX = 512
"""Side of the largest square shown to raters."""
_SAID_SAME: tuple[tuple[Measure, Choice], ...] = (("same_if_same", "same"), ("same_if_different", "different"))
# Of six pairs of `same`, four show a released photo and two are the control.
_CELLS: tuple[tuple[Form, Choice], ...] = (
    ("released", "same"), ("released", "different"), ("untouched", "same"),
    ("released", "same"), ("released", "different"), ("untouched", "different"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """One photo of the folder."""

    path: Path
    name: str
    """Relative to the folder, e.g. `released/7.jpg`; never told to a rater."""
    form: Form
    photo: str
    """The same for a photo and its release."""
    person: str | None


@dataclass(frozen=True, slots=True)
class Gallery:
    """All photos of the operator's folder."""

    pictures: tuple[Picture, ...]
    px: int
    """Side of the square that every picture is shown as: no larger than the smallest of them."""
    fingerprint: str
    """Changes when a photo is added or removed, and with it the questions."""

    def of(self, form: Form) -> list[Picture]:
        """The released or the untouched ones, in order of their names."""
        return [picture for picture in self.pictures if picture.form == form]


class Trial(NamedTuple):
    """One question and its answer."""

    left: Picture
    right: Picture
    condition: Form
    """What stands beside the untouched photo."""
    truth: Choice


class Answer(NamedTuple):
    """One recorded answer."""

    test: str
    """Which test, and so which rater, without a name."""
    task: Task
    condition: Form
    truth: Choice
    answer: Choice


@dataclass(frozen=True, slots=True)
class Finding:
    """A share of answers beside chance."""

    task: Task
    condition: Form
    measure: Measure
    """Right answers; or answers "same person" where it was one person, and where it was not."""
    rate: Rate
    chance: float | None
    """What guessing reaches; None where guessing may reach anything."""
    tests: int


def read_gallery(folder: Path) -> Gallery:
    """`released/`, `untouched/` and `identities.txt` of a folder; links that lead out of it are not followed.

    Raises ConfigError when there is nothing to compare, or a file is no picture.
    """
    known, pictures, sides = _identities(folder / "identities.txt"), [], []
    for form in ("released", "untouched"):
        try:
            paths = find_photos(folder / form)
        except StorageError as error:
            raise ConfigError(
                f"serve.turing.folder: expected photos in {folder / form}, got none ({error}); put them there"
            ) from error
        for path in paths:
            name = path.relative_to(folder / form).as_posix()
            photo = _photo(name)
            sides.append(_side(path))
            pictures.append(Picture(path, f"{form}/{name}", form, photo, known.get(photo)))
    forms = [picture.form for picture in pictures]
    if not {"released", "untouched"} <= set(forms) or len({picture.photo for picture in pictures}) < 2:
        raise ConfigError(
            f"serve.turing.folder: expected at least two photos in {folder}, one in released/ and another in "
            f"untouched/, got {forms.count('released')} and {forms.count('untouched')}; add photos"
        )
    text = repr([(picture.name, picture.person) for picture in pictures])
    return Gallery(tuple(pictures), min(LARGEST_PX, *sides), hashlib.sha256(text.encode()).hexdigest()[:12])


def deal(gallery: Gallery, task: Task, seed: bytes, count: int) -> list[Trial]:
    """At most `count` questions, fewer (or none) where photos run out; `seed` alone decides which, and their order."""
    dice = random.Random(seed)
    pairs = _real_pairs(gallery, dice) if task == "real" else _same_pairs(gallery, dice)
    trials = []
    for one, other, condition, truth in (pair for pair, _ in zip(pairs, range(count), strict=False)):
        if dice.random() < 0.5:
            trials.append(Trial(one, other, condition, truth))
        else:
            swapped: Choice = "right" if truth == "left" else truth
            trials.append(Trial(other, one, condition, swapped))
    dice.shuffle(trials)
    return trials


def tally(answers: Iterable[Answer]) -> list[Finding]:
    """Shares of all answers; 95 % intervals, the wider of Wilson's over answers and a bootstrap over raters."""
    found: list[Finding] = []
    groups: dict[tuple[Task, Form], list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.task, answer.condition].append(answer)
    for (task, condition), group in sorted(groups.items()):
        correct = [answer.answer == answer.truth for answer in group]
        found.append(Finding(task, condition, "correct", _rate(group, correct), CHANCE, _tests(group)))
        if task == "same":
            for measure, truth in _SAID_SAME:
                part = [answer for answer in group if answer.truth == truth]
                said = [answer.answer == "same" for answer in part]
                found.append(Finding(task, condition, measure, _rate(part, said), None, _tests(part)))
    return found


def _rate(answers: Sequence[Answer], success: Sequence[bool]) -> Rate:
    names = {test: i for i, test in enumerate(dict.fromkeys(answer.test for answer in answers))}
    return clustered(np.array(success, np.bool_), np.array([names[answer.test] for answer in answers], np.int64))


def _tests(answers: Sequence[Answer]) -> int:
    return len({answer.test for answer in answers})


def _real_pairs(gallery: Gallery, dice: random.Random) -> Iterator[Trial]:
    """Untouched left, released right, until photos run out."""
    released, untouched = _shuffled(gallery.of("released"), dice), _shuffled(gallery.of("untouched"), dice)
    seen: set[str] = set()
    for fake in released:
        if fake.photo in seen:
            continue
        real = next((p for p in untouched if p.photo not in seen and p.photo != fake.photo), None)
        if real is None:
            return
        seen |= {fake.photo, real.photo}
        yield Trial(real, fake, "released", "left")


def _same_pairs(gallery: Gallery, dice: random.Random) -> Iterator[Trial]:
    """An untouched photo and its companion, the cells in turn, until none can be filled."""
    seen: set[str] = set()
    people = _shuffled(sorted({p.person for p in gallery.pictures if p.person is not None}), dice)
    of: dict[tuple[str | None, Form], list[Picture]] = defaultdict(list)
    for picture in _shuffled(gallery.pictures, dice):
        of[picture.person, picture.form].append(picture)
    empty = 0
    while empty < len(_CELLS):
        for form, truth in _CELLS:
            pair = _pair(people, of, form, truth, seen)
            if pair is None:
                empty += 1
                continue
            empty = 0
            seen |= {pair[0].photo, pair[1].photo}
            # People take turns; the ones just shown go to the end.
            people.sort(key=lambda person: person in {pair[0].person, pair[1].person})
            yield Trial(*pair, form, truth)


def _pair(people: Sequence[str], of: dict[tuple[str | None, Form], list[Picture]], form: Form, truth: Choice,
          seen: set[str]) -> tuple[Picture, Picture] | None:  # fmt: skip
    """The first unseen untouched photo that has an unseen companion in `form`, or None."""
    for person in people:
        one = next((p for p in of[person, "untouched"] if p.photo not in seen), None)
        if one is None:
            continue
        for companion in [person] if truth == "same" else [other for other in people if other != person]:
            taken = seen | {one.photo}
            other = next((p for p in of[companion, form] if p.photo not in taken), None)
            if other is not None:
                return one, other
    return None


def _shuffled(items: Iterable[T], dice: random.Random) -> list[T]:
    copy = list(items)
    dice.shuffle(copy)
    return copy


def _photo(name: str) -> str:
    """A photo's name without its suffixes: a release may have gained one, `7.heic` -> `7.heic.png`."""
    while Path(name).suffix.lower() in PHOTO_SUFFIXES:
        name = name[: -len(Path(name).suffix)]
    return name


def _side(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return min(image.size)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"serve.turing.folder: expected pictures only, but {path} is none; remove it") from error


def _identities(path: Path) -> dict[str, str]:
    """Photo -> person, from lines of `photo number`; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        pairs = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"serve.turing.folder: cannot read {path} ({error}); expected `photo number`") from error
    short = next((i for i, pair in enumerate(pairs, 1) if len(pair) < 2), None)
    if short is not None:
        raise ConfigError(f"serve.turing.folder: expected `photo number` in line {short} of {path}, got one word")
    return {_photo(name): person.strip() for name, person in pairs}
