"""Pictures are known by how they begin, and texts that hide one are no texts."""

from __future__ import annotations

import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from anonymousnet.data.content import is_picture, is_plain, is_text

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000"]


def picture(kind: str, side: int = 16) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_a_picture_and_no_text_hides_it(kind: str) -> None:
    data = picture(kind)
    assert is_picture(data)
    assert not is_text(data)
    text = base64.b64encode(data).decode()
    wrapped = base64.encodebytes(data).decode()
    for hidden in (
        text, json.dumps({"a": "b", "image": text}), wrapped, json.dumps(wrapped), f"data:image/x;base64,{text[:40]}",
        data.hex(), repr(data), json.dumps(data.decode("latin-1")), data.decode("latin-1"),
        base64.urlsafe_b64encode(data).decode(),
    ):  # fmt: skip
        assert not is_plain(hidden), hidden[:60]
        assert not is_text(hidden.encode())


def test_tiny_pictures_and_other_ways_to_write_one() -> None:
    tiny = picture("GIF", 4)
    assert not is_plain(f"a thumbnail: {base64.b64encode(tiny).decode()}")
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    assert not is_plain(" ".join(map(str, pixels.ravel())))  # as in FER2013
    assert not is_plain(json.dumps(pixels.tolist()))
    assert not is_plain("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert is_picture(b"P2\n# a comment\n4 4\n255\n" + b"0 " * 16)


PLAIN = [
    "a dog in the park", "7", "", '{"caption": "two people, smiling", "bbox": [1.5, 2, 30, 40]}', "P1 is a level",
    "BM is a brand", "łódź 日本語 🙂\r\nsecond line\t\n", "https://example.org/a/b?c=0123456789abcdef0123456789abcdef",
    " ".join(["word"] * 5000), "\n".join(f"{i:06}" for i in range(200)), json.dumps({"landmarks": list(range(136))}),
    "sha256:" + "0123456789abcdef" * 4,
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_what_people_write_beside_photos_is_text(text: str) -> None:
    assert is_plain(text)
    assert is_text(text.encode())
    assert not is_picture(text.encode())


def test_long_texts_take_no_time() -> None:
    for text in ("a " * 500_000, "ab-" * 80 + " ", ("x" * 255 + " ") * 2000, "1," * 255 + "a" + "1, " * 100_000):
        started = time.process_time()
        is_plain(text)
        assert time.process_time() - started < 2
