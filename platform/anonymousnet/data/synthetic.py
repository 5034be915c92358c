"""Synthetic faces: for tests, for demonstrations, for anyone without CelebA. They show nobody.

Drawn, not learned: geometry and light, with attributes and landmarks known exactly. Good enough for a face
detector and for small networks to learn from; never evidence about privacy or quality on photos of people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.synthetic_head import Head, Pose, Traits, sample_attributes
from anonymousnet.data.synthetic_paint import paint_person


@dataclass(frozen=True, slots=True)
class SyntheticFace:
    """One face and all that is true of it."""

    image: np.ndarray
    """uint8 (px, px, 3)."""
    attributes: np.ndarray
    """bool (40,), in CelebA's order."""
    landmarks_68: np.ndarray
    """float32 (68, 2): x, y in pixels (whole numbers: centres of pixels), iBUG order."""
    landmarks_5: np.ndarray
    """float32 (5, 2): viewer's left eye, right eye, nose tip, left and right mouth corner."""
    identity: int
    """Who it is; two faces of one identity differ in pose, expression, light and background."""


def render_face(
    seed: int, px: int = 178, identity: int | None = None, attributes: np.ndarray | None = None
) -> SyntheticFace:
    """One face where CelebA's aligned faces sit: the same arguments always give the same bytes.

    `identity` defaults to `seed`; `attributes`, bool (40,), to a plausible draw from both. Every attribute is
    drawn but Attractive, which has no look of its own.
    """
    identity = seed if identity is None else identity
    chosen = sample_attributes(identity, seed) if attributes is None else np.asarray(attributes, bool)
    has = _names(chosen)
    rng = np.random.default_rng([9, seed])
    head = Head(Traits.of(identity), Pose.of(seed, has), has)
    head.align(px, rng.normal(size=2) * 0.7)
    picture = _background(rng, (px, px))
    person = paint_person(head, seed, (px, px))
    picture.paste(person, mask=person)
    return SyntheticFace(
        image=_photographed(picture, rng, px / 178 if "Blurry" in has else 0.0),
        attributes=chosen,
        landmarks_68=head.landmarks_68().astype(np.float32),
        landmarks_5=head.landmarks_5().astype(np.float32),
        identity=identity,
    )


def render_page(seed: int, faces: int = 6, width: int = 960) -> tuple[np.ndarray, list[np.ndarray]]:
    """A group photo: uint8 (H, width, 3), and for each of `faces` people float32 (5, 2) landmarks in pixels.

    Heads differ in size, lean a little and do not hide one another.
    """
    rng = np.random.default_rng([10, seed])
    rows = max(1, round((faces / 1.7) ** 0.5))
    columns = -(-faces // rows)
    cell = width / columns
    height = round(cell * (1.02 * rows + 0.15))
    page, landmarks = _background(rng, (width, height)), []
    for index in range(faces):
        row, column = divmod(index, columns)
        unit = cell / rng.uniform(150, 240)
        in_row = min(columns, faces - row * columns)
        x = (column + 0.5 + (columns - in_row) / 2 + rng.uniform(-0.06, 0.06)) * cell
        y = (row * 1.02 + 0.6 + rng.uniform(-0.05, 0.05)) * cell
        landmarks.append(_seat(page, int(rng.integers(2**31)), x, y, unit, rng.uniform(-0.2, 0.2)))
    return _photographed(page, rng, 0.0), landmarks


def synthetic_dataset(
    n: int, px: int, identities: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`n` faces of `identities` people, in turn.

    Returns images uint8 (n, px, px, 3), attributes bool (n, 40), identities int64 (n,) from 0, and landmarks
    float32 (n, 68, 2) in pixels. Other seeds give other people.
    """
    images = np.empty((n, px, px, 3), np.uint8)
    attributes = np.empty((n, len(ATTRIBUTES)), bool)
    landmarks = np.empty((n, 68, 2), np.float32)
    people = np.arange(n, dtype=np.int64) % identities
    offset = seed * 1_000_003
    for i in range(n):
        face = render_face(offset + i, px, identity=offset + int(people[i]))
        images[i], attributes[i], landmarks[i] = face.image, face.attributes, face.landmarks_68
    return images, attributes, people, landmarks


def _names(attributes: np.ndarray) -> frozenset[str]:
    return frozenset(name for name, true in zip(ATTRIBUTES, attributes.tolist(), strict=True) if true)


def _seat(page: Image.Image, seed: int, x: float, y: float, unit: float, lean: float) -> np.ndarray:
    """Paint one person with the eyes at (x, y), `unit` pixels per face unit; return the five landmarks."""
    has = _names(sample_attributes(seed, seed)) - {"Blurry"}
    head = Head(Traits.of(seed), Pose.of(seed, has), has)
    left, top = round(x - 130 * unit), round(y - 125 * unit)
    size = (round(260 * unit), min(page.height - top, round(700 * unit)))
    middle = head.landmarks_5()[:2].mean(axis=0)
    turn = unit * np.exp(1j * lean)
    head.stand(complex(turn), complex(x - left, y - top) - complex(turn) * complex(*middle))
    person = paint_person(head, seed, size, 3 if unit < 1.2 else 2)
    page.paste(person, (left, top), person)
    landmarks: np.ndarray = (head.landmarks_5() + np.array([left, top])).astype(np.float32)
    return landmarks


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A blurred room: a gradient of two colours and a few shapes."""
    two = rng.uniform(30, 220, (2, 1, 1)) + rng.normal(size=(2, 1, 3)) * 16
    blobs = rng.normal(size=(7, 7, 3)) * rng.uniform(1, 9) + rng.normal(size=(7, 7, 1)) * rng.uniform(4, 24)
    grid = two[0] + (two[1] - two[0]) * np.linspace(0, 1, 7)[:, None, None] + blobs
    return Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _photographed(picture: Image.Image, rng: np.random.Generator, blur: float) -> np.ndarray:
    """What lens and sensor do: exposure, warmth, blur (`blur` > 0), noise."""
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(2.6 * blur))
    gain = rng.uniform(0.84, 1.1) * (1 + rng.uniform(-0.05, 0.05) * np.array([1, 0, -1]))
    pixels = np.asarray(picture) * gain.astype(np.float32)
    pixels += rng.integers(-4, 5, pixels.shape, dtype=np.int8)
    image: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return image
