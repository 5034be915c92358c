"""What the images are made of: exact versions, by hash; and a list of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from anonymousnet import weights
from anonymousnet.cluster.cli import main
from anonymousnet.cluster.render import Choices, render
from anonymousnet.cluster.sbom import LOCKS, locked, sbom
from anonymousnet.cluster.sizes import Size
from anonymousnet.config import Config
from anonymousnet.errors import ConfigError, WeightsError
from anonymousnet.weights.hashes import SHA256

DIGEST = "sha256:" + "ab" * 32


def test_locks_have_a_hash_for_all_that_is_needed_and_no_other_version() -> None:
    wanted = dict(line.split("==") for line in (LOCKS / "constraints.txt").read_text().split())
    found = locked()
    assert {name: found.get(name, ("none",))[0] for name in wanted} == wanted, "run: make lock"
    assert all(hashes for _, hashes in found.values())
    added = found.keys() - wanted.keys()
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in added), "CUDA's libraries alone"


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_are_built_from_what_is_named_by_its_bytes(name: str) -> None:
    text = render([Size.parse("small")], Config(), Choices())[f"images/{name}"].replace("\\\n", " ")
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert len(bases) == 2
    assert all(base.endswith("@${PYTHON_DIGEST}") for base in bases)
    assert re.search(r"^ARG PYTHON_DIGEST$", text, re.M), "no default: nothing is built without it"
    installs = re.findall(r"pip install [^&\n]*", text)
    assert len(installs) == 5
    assert all("--require-hashes" in one or "--no-index" in one for one in installs), installs
    assert all("--no-deps" in one for one in installs)
    assert "--no-build-isolation" in re.findall(r"pip wheel [^&\n]*", text)[0], "else it would fetch what is in no lock"


def test_machines_take_the_image_of_one_digest() -> None:
    files = render([Size.parse("small")], Config(), Choices(image_digest=DIGEST, redis_digest=DIGEST))
    images = {
        line.strip() for text in files.values() for line in text.splitlines() if line.strip().startswith("image: ")
    }
    assert len(images) == 2
    assert all(image.endswith(f"@{DIGEST}") for image in images)
    bare = render([Size.parse("small")], Config(), Choices())
    assert "@sha256" not in "".join(text for name, text in bare.items() if name.startswith("small/"))


def test_digests_are_checked() -> None:
    for choices in (Choices(image_digest="latest"), Choices(redis_digest="sha256:12")):
        with pytest.raises(ConfigError, match=r"digest: expected sha256: and 64 digits"):
            render([Size.parse("small")], Config(), choices)
    with pytest.raises(ConfigError, match="have two images"):
        render([Size.parse("small"), Size.parse("1x0")], Config(), Choices(image_digest=DIGEST))


def test_rendered_files_with_digests_have_no_mistake(tmp_path: Path) -> None:
    command = ["cluster", "render", "--size", "small", "--image-digest", DIGEST, "--redis-digest", DIGEST, "--out"]
    assert CliRunner().invoke(main, [*command, str(tmp_path)]).exit_code == 0
    done = CliRunner().invoke(main, ["cluster", "validate", str(tmp_path)])
    assert "no mistakes" in done.output
    assert yaml.safe_load((tmp_path / "small/launcher/aws.yaml").read_text())["docker"]["image"].endswith(DIGEST)


def test_the_list_names_every_package_and_network_with_its_hashes() -> None:
    found = sbom()
    assert json.loads(json.dumps(found)) == found
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    by_kind = {kind: [one for one in found["components"] if one["type"] == kind]
               for kind in ("library", "machine-learning-model")}  # fmt: skip
    assert {one["name"] for one in by_kind["library"]} == set(locked())
    assert {one["name"] for one in by_kind["machine-learning-model"]} == {f"anonymousnet/{name}" for name in SHA256}
    assert all(re.fullmatch("[0-9a-f]{64}", hash_["content"]) for one in found["components"] for hash_ in one["hashes"])
    assert found == sbom(), "the same for the same locks"


def test_shipped_weights_are_known_by_their_hash_in_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name: weights.sha256_of(name) for name in weights.shipped_names()} == SHA256
    # Whoever replaces the file, and the hash beside it, is found out.
    folder = tmp_path / "attributes"
    digest = weights.write(folder, "classifier", {}, {}, {})
    assert weights.read(str(folder)).sha256 == digest, "a user's own"
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    with pytest.raises(WeightsError, match="is not the one that this version ships: expected sha256 7f09"):
        weights.read("attributes")
