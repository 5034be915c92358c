"""`anonymousnet evaluate` from a release on disk to the page, on synthetic people and small random networks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from anonymousnet import weights
from anonymousnet.cluster.cli import main
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.synthetic import synthetic_dataset
from anonymousnet.errors import AnonymousNetError
from anonymousnet.evaluation import THIS, Evaluation, evaluate
from anonymousnet.nets.embedder import Embedder, EmbedderConfig
from anonymousnet.pipelines.bulk import anonymize
from anonymousnet.privacy import examine, sweep
from anonymousnet.privacy.finetune import Effort

PEOPLE, EACH = 24, 4


class Case:
    """A release with its originals, and what was found."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config
        self.originals, self.release = folder / "Erika-Mustermann", folder / "released"
        self.identities = folder / "people.txt"
        images, attributes, identities, _ = synthetic_dataset(PEOPLE * EACH, 178, PEOPLE, 4)
        self.names = [f"Mustermann {i:03}.jpg" for i in range(len(images))]
        self.originals.mkdir()
        for name, image in zip(self.names, images, strict=True):
            Image.fromarray(image).save(self.originals / name, quality=95)
        renamed = [name.replace(" ", "_") for name in self.names]  # CelebA's lists have no spaces in names
        for old, new in zip(self.names, renamed, strict=True):
            (self.originals / old).rename(self.originals / new)
        self.names = renamed
        lines = [f"{n} {7000 + i}\n" for n, i in zip(self.names, identities, strict=True)]
        self.identities.write_text("".join(lines))
        rows = [f"{n} {' '.join('1' if v else '-1' for v in a)}" for n, a in zip(self.names, attributes, strict=True)]
        table = [str(len(rows)), " ".join(ATTRIBUTES), *rows]
        (folder / "list_attr_celeba.txt").write_text("\n".join(table) + "\n")
        anonymize(self.originals, self.release, config)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, small_weights: list[str]) -> Case:
    folder = tmp_path_factory.mktemp("evaluate")
    shape = EmbedderConfig(px=64, width=8, dimensions=32)
    torch.manual_seed(0)
    weights.write(folder / "embedder", "embedder", shape.model_dump(), Embedder(shape).state_dict(), {})
    return Case(folder, Config.load(None, [*small_weights, f"audit.weights={folder}/embedder"]))


@pytest.fixture(scope="module")
def found(case: Case) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "KNOBS", {"strength": (0.0, 1.0), "epsilon": (3.0,)})
        patch.setattr(sweep, "MOST_FACES", 8)
        patch.setattr(examine, "DETECTED_FACES", 12)
        return evaluate(case.release, case.originals, case.identities, case.config, None, ["ours"], effort=Effort(2, 8))


def test_every_method_meets_every_attacker(found: Evaluation) -> None:
    assert found.faces >= 0.9 * PEOPLE * EACH
    assert [x.method for x in found.methods] == [
        THIS, "untouched", "blur", "pixelate", "black box", "noise", "k-same", "translation (strength 0)",
    ]  # fmt: skip
    for examined in found.methods:
        assert [a.attacker for a in examined.attacks] == ["naive", "parrot", "reversal"]
    untouched = found.methods[1]
    assert untouched.attacks[0].matchings[0].rank["1"].value == 1
    assert untouched.quality.ssim == pytest.approx(1)
    assert found.methods[0].quality.read_back is not None


def test_truth_is_the_labels_beside_the_identity_file(found: Evaluation) -> None:
    assert found.truth_from == "CelebA's labels"
    assert {"Male: yes", "Male: no"} <= found.methods[0].by_subgroup.keys()


def test_the_curve_marks_what_was_chosen(found: Evaluation) -> None:
    chosen = sorted((p.knob, round(p.value, 6)) for p in found.curve if p.chosen)
    assert chosen == [("epsilon", 10.0), ("perturbation", round(3 / 255, 6)), ("strength", 1.0)]
    assert ("strength", 0.0) in {(p.knob, p.value) for p in found.curve}


def test_it_is_written_apart_and_for_the_owner_alone(case: Case, found: Evaluation) -> None:
    page = Path(found.report)
    assert page.parent == case.folder / "released-evaluation"
    assert page.parent.stat().st_mode & 0o777 == 0o700
    figures = json.loads(Path(found.json).read_text())
    assert figures["verdict"]["answer"] in ("pass", "fail", "open")
    assert "NaN" not in Path(found.json).read_text()


def test_nothing_of_the_originals_is_in_the_page(case: Case, found: Evaluation) -> None:
    for text in (Path(found.report).read_text(), Path(found.json).read_text()):
        assert "Mustermann" not in text
        assert str(case.folder) not in text.replace(found.report, "").replace(found.json, "")
        assert not re.search(r"\b70\d\d\b", text.replace(str(found.report), "")), "no identity numbers"
        assert "data:image" not in text
        assert "base64" not in text
    page = Path(found.report).read_text()
    assert not re.search(r"""(src|href)=["'](?!#)""", page), "it needs nothing but itself"
    assert "<script" not in page


def test_the_three_tests_head_the_page_and_the_questions_follow(found: Evaluation) -> None:
    page = Path(found.report).read_text()
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert heads[0].startswith("The three tests")
    assert heads[1:4] == ["Is it private now?", "How private is it?", "Can it be more private?"]
    for word in ("Singling out", "Linkability", "Inference", "not Inception", "Male: yes", "Young: no"):
        assert word in page
    assert page.count("<svg ") == 5
    refused = "refused" in page  # 96 faces give 4,000 pairs of strangers
    assert refused
    assert "needs 10,000 pairs" in page


def problem(case: Case, **changes: Path) -> str:
    paths = {"release": case.release, "originals": case.originals, "identities": case.identities} | changes
    arguments = ["evaluate", str(paths["release"]), "--originals", str(paths["originals"])]
    arguments += ["--identities", str(paths["identities"]), "--recogniser", "ours"]
    arguments += ["--out", str(paths["out"])] if "out" in paths else []
    for name in ("predict", "synthesize", "perturb", "audit"):
        arguments += ["--set", f"{name}.weights={getattr(case.config, name).weights}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    return line


def test_bad_input_is_told_in_one_line(case: Case, found: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "nobody.txt").write_text("000001.jpg 5\n")
    assert "names none of the" in problem(case, identities=tmp_path / "nobody.txt")
    (tmp_path / "empty").mkdir()
    assert "expected" in problem(case, release=tmp_path / "empty")
    assert "release.parquet" in problem(case, release=tmp_path / "empty")
    assert "check --originals" in problem(case, originals=tmp_path / "gone")
    assert "no original of this name" in problem(case, originals=tmp_path / "empty")
    assert "never stands beside a release" in problem(case, out=case.release / "evaluation")
    few = sorted(case.identities.read_text().splitlines(), key=lambda line: line.split()[1])[:12]
    (tmp_path / "few.txt").write_text("\n".join(few) + "\n")
    assert "impostor pairs" in problem(case, identities=tmp_path / "few.txt")
    (tmp_path / "words.txt").write_text("a b c\n")
    assert "expected 'name number'" in problem(case, identities=tmp_path / "words.txt")


def test_a_photo_of_another_size_is_left_out(case: Case, found: Evaluation, tmp_path: Path) -> None:
    from anonymousnet.privacy.pairs import open_release

    originals = tmp_path / "originals"
    shutil.copytree(case.originals, originals)
    Image.new("RGB", (50, 40)).save(originals / case.names[0])
    (originals / case.names[1]).write_bytes(b"no picture")
    (originals / case.names[2]).unlink()
    opened = open_release(case.release, originals, case.identities, case.config, lambda f: np.zeros((len(f), 40), bool))
    assert opened.left_out["original and release differ in size"] == 1
    assert opened.left_out["photo does not read"] == 1
    assert opened.left_out["no original of this name"] == 1
    assert len(opened.pairs) == found.faces - 3


def test_errors_are_ours(case: Case) -> None:
    with pytest.raises(AnonymousNetError):
        evaluate(case.release, case.originals, case.identities, case.config, None, ["nobody"])
