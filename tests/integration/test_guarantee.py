"""The pixel guarantee on synthetic faces, by small networks of random weights, and that a leak is caught."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from anonymousnet import anonymizer as pipeline
from anonymousnet.align.region import FACE
from anonymousnet.anonymizer import READERS, Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.synthetic import render_face, render_page
from anonymousnet.device import Runner
from anonymousnet.doctor import guarantee
from anonymousnet.errors import ConfigError, DataError, StorageError, UnpaintedFace
from anonymousnet.guarantee import KEY, celeba_photos, examine
from anonymousnet.nets.classifier import Classifier, ClassifierConfig, Surroundings
from anonymousnet.nets.generator import Generator, GeneratorConfig
from anonymousnet.privacy.mechanism import Mechanism
from anonymousnet.privacy.population import celeba_population
from anonymousnet.stages.obfuscate import Obfuscate
from anonymousnet.stages.perturb import Perturb
from anonymousnet.stages.predict import Predict
from anonymousnet.stages.synthesize import Synthesize

PX = 64
FACES = 10


def small(*overrides: str) -> Anonymizer:
    """An anonymizer whose networks are small and know nothing."""
    config = Config.load(None, list(overrides))
    runner = Runner(config.device, config.precision, config.batch)
    mechanism, shape = Mechanism.solve(celeba_population(), config.obfuscate), ClassifierConfig(px=PX, width=8)
    stages = [
        Predict(Classifier(shape), Surroundings(shape), runner),
        Obfuscate(mechanism),
        Synthesize(
            Generator(GeneratorConfig(px=PX, width=8, widest=32, code=16, style=32, region=config.synthesize.region)),
            runner,
        ),
        Perturb(torch.rand(3, PX, PX) * 2 - 1, 10 / 255),
    ]
    return Anonymizer(config, KEY, stages, runner, dict.fromkeys(READERS, "0" * 64), mechanism, PX)


@pytest.fixture(scope="module")
def photos() -> list[NDArray[np.uint8]]:
    return [render_face(i, 200).image for i in range(2 * FACES)]


@pytest.mark.parametrize(("precision", "file"), [("fp32", "png"), ("auto", "jpeg")])
def test_holds(photos: list[NDArray[np.uint8]], precision: str, file: str) -> None:
    result = examine(small(f"precision={precision}", f"release.format={file}"), photos, FACES, "synthetic")
    assert result.faces == FACES
    assert result.holds, result.lines()
    assert "The guarantee holds." in result.lines()


def test_holds_for_the_head(photos: list[NDArray[np.uint8]]) -> None:
    made = small("synthesize.region=head")
    result = examine(made, photos, FACES, "synthetic")
    assert result.faces == FACES
    assert result.holds, result.lines()
    evidence = made(photos[0]).faces[0].evidence.public
    assert evidence.region == "head"
    assert "Bangs" not in evidence.unprotected
    assert "long hair" in evidence.covers


def test_two_regions_never_draw_from_one_stream(photos: list[NDArray[np.uint8]]) -> None:
    """Their surroundings are read differently: two answers from one randomness would tell more than either may."""
    face, head = (small(f"synthesize.region={region}").prepare(photos[0]).batch for region in ("face", "head"))
    assert face.draw_keys != head.draw_keys
    assert face.code_keys != head.code_keys


def test_holds_for_photos_of_several_faces() -> None:
    pages = [render_page(seed, faces=5, width=480)[0] for seed in range(3)]
    result = examine(small(), pages, 2, "synthetic pages")
    assert result.faces == 2
    assert result.holds, result.lines()


def _leak_pixel(context: Tensor, rgb: NDArray[np.uint8], matrix: NDArray[np.float64]) -> None:
    """Let one hidden pixel, the middle of the region, through into the context."""
    middle = np.array(FACE.centre) * PX
    x, y = np.linalg.solve(matrix[:, :2], middle - matrix[:, 2]).astype(int)
    seen = torch.from_numpy(rgb[y, x].astype(np.float32) / 127.5 - 1)
    context[:, int(middle[1]), int(middle[0])] = seen


def test_one_leaked_pixel_is_caught(photos: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Callable[..., Any] = pipeline.crop_context

    def leaky(rgb: Any, hidden: Any, matrices: Any, *rest: Any) -> tuple[Tensor, Tensor]:
        context, region = honest(rgb, hidden, matrices, *rest)
        for i, matrix in enumerate(matrices):
            _leak_pixel(context[i], rgb, matrix)
        return context, region

    monkeypatch.setattr(pipeline, "crop_context", leaky)
    result = examine(small("release.format=png"), photos, FACES, "synthetic")
    assert not result.holds
    assert result.identical_noise < FACES
    assert result.identical_other < FACES
    assert "THE GUARANTEE DOES NOT HOLD" in result.lines()[-1]


def test_a_paste_that_blends_the_source_through_is_caught(
    photos: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = pipeline.paste

    def leaky(rgb: NDArray[np.uint8], hidden: NDArray[np.bool_], *rest: Any) -> NDArray[np.uint8]:
        out = honest(rgb, hidden, *rest)
        row, column = np.argwhere(hidden)[0]  # the rim of the region, as a feather that reaches inside would
        out[row, column] = out[row, column] // 2 + rgb[row, column] // 2
        return out

    monkeypatch.setattr(pipeline, "paste", leaky)
    assert not examine(small("release.format=png"), photos, FACES, "synthetic").holds


def test_an_identity_code_from_the_hidden_pixels_is_caught(
    photos: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Anonymizer.hide

    def leaky(self: Anonymizer, *rest: Any) -> Any:
        prepared = honest(self, *rest)
        keys = prepared.batch.draw_keys  # these come from the whole photo
        return replace(prepared, batch=prepared.batch.with_(code_keys=keys))

    monkeypatch.setattr(Anonymizer, "hide", leaky)
    result = examine(small(), photos, 3, "synthetic")
    assert result.identical_other == result.identical_noise == 0


def test_a_generator_deaf_to_its_inputs_is_no_proof(photos: list[NDArray[np.uint8]]) -> None:
    """Identical bytes mean nothing if the face never changes."""
    made = small("perturb.epsilon=0")
    made.stages[2].generator.forward = lambda context, *_: torch.zeros_like(context)  # type: ignore[attr-defined]
    result = examine(made, photos, 3, "synthetic")
    assert result.identical_other == result.identical_noise == 3
    assert (result.differ_context, result.differ_attributes, result.differ_code) == (0, 0, 0)
    assert not result.holds


def test_other_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="synthesize.strength 1, got 0.4"):
        guarantee(Config.load(None, ["synthesize.strength=0.4"]))


def test_no_face_anywhere_is_an_error() -> None:
    wall = np.full((200, 200, 3), 120, np.uint8)
    with pytest.raises(DataError, match="two photos with a face"):
        examine(small(), [wall, wall], 2, "walls")


def test_photos_from_a_folder_and_from_zips(small_celeba: Path, tmp_path: Path) -> None:
    unpacked = list(celeba_photos(small_celeba, 0))
    assert len(unpacked) == 3
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "labels.zip", "w") as archive:
        archive.write(small_celeba / "list_eval_partition.txt", "list_eval_partition.txt")
    for number, letter in enumerate("01"):
        with zipfile.ZipFile(packed / f"img_align_celeba_0{letter}.zip", "w") as archive:
            for image in sorted((small_celeba / "img_align_celeba").iterdir())[number::2]:
                archive.write(image, f"img_align_celeba/{image.name}")
    assert sorted(celeba_photos(packed, 0)) == sorted(unpacked)
    assert list(celeba_photos(packed, 0)) == list(celeba_photos(packed, 0))
    (packed / "labels.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="unpack them"):
        list(celeba_photos(packed, 0))
    with pytest.raises(StorageError):
        list(celeba_photos(tmp_path / "nowhere", 0))


def test_the_block_that_is_changed_lies_outside_the_region() -> None:
    """The test of the context must not touch what is hidden, nor what fades."""
    from anonymousnet.guarantee import _with_block

    made = small()
    prepared = made.prepare(render_face(3, 200).image)
    changed = (_with_block(prepared.image.rgb, prepared, PX, FACE) != prepared.image.rgb).any(2)
    assert changed.sum() > 50
    assert not (changed & prepared.hidden_HW).any()
    painted = torch.ones(1, 3, PX, PX)
    pasted = pipeline.paste(prepared.image.rgb, prepared.hidden_HW, painted, prepared.matrices_F23, FACE)
    assert not (changed & (pasted != prepared.image.rgb).any(2)).any()


def test_a_place_that_leaves_a_face_open_withholds_the_photo(
    photos: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small()
    shift = np.array([[0, 0, PX], [0, 0, 0]])  # a whole crop to the side
    honest = Anonymizer._placed
    monkeypatch.setattr(Anonymizer, "_placed", lambda self, image, matrices: honest(self, image, matrices) + shift)
    with pytest.raises(UnpaintedFace, match="66% or more of every face"):
        made.prepare(photos[0])
