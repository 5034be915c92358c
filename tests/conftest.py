"""Shared fixtures: synthetic faces, a small folder in CelebA's layout, the real one where it is there."""

from __future__ import annotations

import os

# Before torch is imported: several test processes that each take all cores are many times slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.synthetic import synthetic_dataset
from anonymousnet.training.data import FaceTable

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "celeba"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def synthetic() -> FaceTable:
    """64 synthetic faces of 16 people at 64 px."""
    images, attributes, identities, points = synthetic_dataset(64, 64, 16, 0)
    return FaceTable(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), attributes, identities, points).numbered()


@pytest.fixture
def small_celeba(tmp_path: Path) -> Path:
    """12 synthetic faces in CelebA's layout: CRLF, two rows whose image is missing, all three partitions."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    images, attributes, identities, _ = synthetic_dataset(12, 178, 4, 1)
    names = [f"{i + 1:06}.jpg" for i in range(14)]
    for name, image in zip(names, images, strict=False):
        padded = np.pad(image, ((20, 20), (0, 0), (0, 0)), mode="edge")
        Image.fromarray(padded).save(folder / "img_align_celeba" / name, quality=90)
    rows = [
        f"{name} " + " ".join("1" if attributes[i % 12, j] else "-1" for j in range(40)) for i, name in enumerate(names)
    ]
    header = [str(len(names)), " ".join(ATTRIBUTES)]
    (folder / "list_attr_celeba.txt").write_bytes("\r\n".join([*header, *rows, ""]).encode())
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{n} {(0, 0, 1, 2)[i % 4]}\n" for i, n in enumerate(names))
    )
    (folder / "identity_CelebA.txt").write_text(
        "".join(f"{n} {identities[i % 12] + 100}\n" for i, n in enumerate(names))
    )
    return folder


@pytest.fixture(scope="session")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real CelebA, unpacked; left out loudly where it is not there."""
    named = os.environ.get("ANONYMOUSNET_CELEBA")
    if named:
        return Path(named)
    if not SHARED.is_dir():
        warnings.warn("LEFT OUT: tests on real faces; set ANONYMOUSNET_CELEBA to CelebA's folder", stacklevel=2)
        pytest.skip("real faces are not here: set ANONYMOUSNET_CELEBA to CelebA's folder")
    folder = tmp_path_factory.mktemp("celeba")
    for archive in sorted(SHARED.glob("*.zip")):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    if unseen := [r for r in skipped if getattr(r, "nodeid", "").startswith("tests/browser/")]:
        terminalreporter.section("LEFT OUT: browser")
        terminalreporter.write_line(f"{len(unseen)} tests need Chromium: run `make browser`")
    left_out = [r for r in skipped if "celeba" in getattr(r, "keywords", {})]
    if left_out:
        terminalreporter.section("LEFT OUT: real faces")
        terminalreporter.write_line(f"{len(left_out)} tests need CelebA: set ANONYMOUSNET_CELEBA to its folder")


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`write_small_weights`, once for all tests."""
    return write_small_weights(tmp_path_factory.mktemp("weights"))


def write_small_weights(folder: Path) -> list[str]:
    """Small random networks (64 px), a random perturbation and a key of its own; the overrides that point a Config at
    them."""
    from anonymousnet import weights
    from anonymousnet.nets.classifier import Classifier, ClassifierConfig, Surroundings
    from anonymousnet.nets.embedder import Embedder, EmbedderConfig
    from anonymousnet.nets.generator import Generator, GeneratorConfig
    from anonymousnet.nets.translator import Translator, TranslatorConfig

    torch.manual_seed(1)
    classifier, generator = ClassifierConfig(px=64, width=8), GeneratorConfig(px=64, width=8, widest=32)
    translator = TranslatorConfig(px=64, width=8, blocks=1)
    embedder = EmbedderConfig(px=32, width=4, dimensions=16)
    painter = Generator(generator)
    with torch.no_grad():  # at the start of training the code hardly shows; here it must
        for block in [*painter.middle, *painter.modulated]:
            block.film.weight.mul_(10)
            block.noise.fill_(0.2)
    for name, network, net, shape in [
        ("attributes", "classifier", Classifier(classifier), classifier),
        ("surroundings", "surroundings", Surroundings(classifier), classifier),
        ("generator", "generator", painter, generator),
        ("translator", "translator", Translator(translator), translator),
        ("embedder", "embedder", Embedder(embedder), embedder),
    ]:
        weights.write(folder / name, network, shape.model_dump(), net.state_dict(), {})
    weights.write(folder / "universal", "universal", {}, {"v": torch.rand(3, 64, 64).sign() * 1.0}, {})
    (folder / "key").write_bytes(bytes(range(32)))
    (folder / "key").chmod(0o600)
    return [
        f"predict.weights={folder}/attributes", f"predict.surroundings={folder}/surroundings",
        f"synthesize.weights={folder}/generator",
        f"synthesize.translation_weights={folder}/translator", f"perturb.weights={folder}/universal",
        f"audit.weights={folder}/embedder", f"release.key_file={folder}/key",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def page() -> np.ndarray:
    """A photo of several synthetic faces: uint8 (H, W, 3)."""
    from anonymousnet.data.synthetic import render_page

    return render_page(3, faces=3, width=640)[0]
