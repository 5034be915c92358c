"""Stages I to III: who sees the face, what randomness they use, and that a face's result is its own."""

from __future__ import annotations

import pytest
import torch

from anonymousnet.align.region import FACE, HEAD, Region, feather
from anonymousnet.config import ObfuscateConfig
from anonymousnet.data.attributes import INDEX
from anonymousnet.device import Runner
from anonymousnet.errors import StageError
from anonymousnet.faces import FaceBatch
from anonymousnet.nets.classifier import Classifier, ClassifierConfig, Surroundings
from anonymousnet.nets.generator import Generator, GeneratorConfig
from anonymousnet.nets.translator import Translator, TranslatorConfig
from anonymousnet.privacy.mechanism import Mechanism
from anonymousnet.privacy.population import celeba_population
from anonymousnet.stages.obfuscate import Obfuscate
from anonymousnet.stages.predict import Predict
from anonymousnet.stages.synthesize import Synthesize, Translate, codes

PX = 64


def keys(n: int, first: int = 0) -> tuple[bytes, ...]:
    return tuple(bytes([first + i]) * 32 for i in range(n))


def batch(n: int = 5) -> FaceBatch:
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(n, 3, PX, PX, generator=generator) * 2 - 1
    region = FACE.masks(PX)[0].expand(n, -1, -1, -1)
    return FaceBatch(FACE.pixelated(source, 0), region, keys(n), keys(n, 100), source_B3HW=source)


def released(n: int = 5) -> FaceBatch:
    return batch(n).with_(source_B3HW=None, released_B40=torch.arange(n * 40).reshape(n, 40) % 3 == 0)


@pytest.fixture(scope="module")
def painter() -> Generator:
    torch.manual_seed(0)
    net = Generator(GeneratorConfig(px=PX, width=8, widest=32))
    with torch.no_grad():
        for block in [*net.middle, *net.modulated]:
            block.film.weight.mul_(10)
            block.noise.fill_(0.2)
    return net


@pytest.fixture(params=["fp32", "bf16"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return Runner("cpu", request.param, 4)


def readers(px: int) -> tuple[Classifier, Surroundings]:
    shape = ClassifierConfig(px=px, width=8)
    return Classifier(shape), Surroundings(shape)


def test_stage_one_sees_the_face_and_drops_it(runner: Runner) -> None:
    done = Predict(*readers(PX), runner)(batch())
    assert done.source_B3HW is None
    assert done.probabilities_B40 is not None
    assert done.probabilities_B40.shape == (5, 40)


def test_stage_one_takes_for_true_what_lies_above_its_attribute_s_own_threshold(runner: Runner) -> None:
    net, around = readers(PX)
    plain = Predict(net, around, runner)(batch())
    assert plain.read_B40 is not None
    assert plain.probabilities_B40 is not None
    assert torch.equal(plain.read_B40, plain.probabilities_B40 > 0.5)
    net.threshold_40[:20], net.threshold_40[20:] = 0.0, 1.0
    other = Predict(net, around, runner)(batch()).read_B40
    assert other is not None
    assert other.tolist() == [[True] * 20 + [False] * 20] * 5


def test_stage_two_starts_from_what_was_read() -> None:
    kept = Mechanism.solve(celeba_population(), ObfuscateConfig(keep=("Male", "Smiling"), follow=("Bald", "Male")))
    read, shown = torch.rand(5, 40) > 0.5, torch.rand(5, 40) > 0.5
    done = Obfuscate(kept)(batch().with_(source_B3HW=None, read_B40=read, shown_B40=shown))
    columns, bald = [INDEX["Male"], INDEX["Smiling"]], INDEX["Bald"]
    assert done.released_B40 is not None
    assert torch.equal(done.released_B40[:, columns], read[:, columns])
    assert torch.equal(done.released_B40[:, bald], shown[:, bald])
    assert done.public["unprotected"] == ("Male", "Smiling", "Bald")


@pytest.mark.parametrize("px", [32, PX])
def test_what_the_surroundings_show_owes_nothing_to_the_region(runner: Runner, px: int) -> None:
    stage, faces = Predict(*readers(px), runner), batch()
    region = faces.region_B1HW.bool().expand(-1, 3, -1, -1)
    # Whatever the source or, below strength 1, the context shows there.
    other = faces.with_(context_B3HW=torch.where(region, torch.rand(5, 3, PX, PX), faces.context_B3HW),
                        source_B3HW=torch.where(region, -1.0, faces.source_B3HW))  # fmt: skip
    around = faces.with_(context_B3HW=torch.where(region, faces.context_B3HW, -faces.context_B3HW))
    logits = [stage.probabilities(stage.surroundings, FACE.pixelated(one.context_B3HW, 0))
              for one in (faces, other, around)]  # fmt: skip
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    first, second = stage(faces), stage(other)
    assert first.shown_B40 is not None
    assert second.shown_B40 is not None
    assert torch.equal(first.shown_B40, second.shown_B40)
    assert not torch.equal(first.probabilities_B40, second.probabilities_B40)


def test_stage_one_resizes_to_its_own_size(runner: Runner) -> None:
    done = Predict(*readers(32), runner)(batch())
    assert done.probabilities_B40 is not None


def test_stage_three_refuses_a_batch_that_still_holds_the_face(painter: Generator, runner: Runner) -> None:
    with pytest.raises(StageError, match="without the source face"):
        Synthesize(painter, runner)(released().with_(source_B3HW=batch().source_B3HW))


def test_stage_three_refuses_faces_of_another_size(painter: Generator, runner: Runner) -> None:
    small = FaceBatch(torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32), keys(1), keys(1),
                      released_B40=torch.zeros(1, 40, dtype=torch.bool))  # fmt: skip
    with pytest.raises(StageError, match="expected faces of 64 px, got 32 px"):
        Synthesize(painter, runner)(small)


def test_painting_ignores_the_global_generator(painter: Generator, runner: Runner) -> None:
    stage, outcomes = Synthesize(painter, runner), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        outcomes.append(stage(released()).faces_B3HW)
    assert torch.equal(*outcomes)


def test_a_face_s_painting_does_not_depend_on_its_neighbours(painter: Generator, runner: Runner) -> None:
    stage, whole = Synthesize(painter, runner), released()
    together = stage(whole).faces_B3HW
    assert together is not None
    assert whole.released_B40 is not None
    for i in range(5):
        alone = whole.with_(
            context_B3HW=whole.context_B3HW[i : i + 1], region_B1HW=whole.region_B1HW[i : i + 1],
            draw_keys=whole.draw_keys[i : i + 1], code_keys=whole.code_keys[i : i + 1],
            released_B40=whole.released_B40[i : i + 1],
        )  # fmt: skip
        painted = stage(alone).faces_B3HW
        assert painted is not None
        assert torch.equal(painted[0], together[i])


@pytest.mark.parametrize("what", ["code", "attributes", "context"])
def test_painting_depends_on_code_attributes_and_context(painter: Generator, runner: Runner, what: str) -> None:
    stage, one = Synthesize(painter, runner), released()
    assert one.released_B40 is not None
    other = {
        "code": one.with_(code_keys=keys(5, 200)),
        "attributes": one.with_(released_B40=~one.released_B40),
        "context": one.with_(context_B3HW=-one.context_B3HW),
    }[what]
    assert not torch.equal(stage(one).faces_B3HW, stage(other).faces_B3HW)


def test_no_faces_no_work(painter: Generator, runner: Runner) -> None:
    empty = FaceBatch(torch.zeros(0, 3, PX, PX), torch.zeros(0, 1, PX, PX), (), (),
                      released_B40=torch.zeros(0, 40, dtype=torch.bool))  # fmt: skip
    assert len(Synthesize(painter, runner)(empty)) == 0


def test_translation_is_for_strength_0_only(runner: Runner) -> None:
    stage = Translate(Translator(TranslatorConfig(px=32, width=8, blocks=1)), runner)
    with pytest.raises(StageError, match="expected a batch of strength 0"):
        stage(released())
    assert stage(released().with_(strength=0.0)).faces_B3HW is not None


def test_codes_are_standard_normal_and_each_key_s_own() -> None:
    code, noise = codes(keys(40), 64, 32)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert torch.equal(codes(keys(40)[7:8], 64, 32)[0][0], code[7])


@pytest.mark.parametrize(("area", "least", "most", "left"), [(FACE, 0.2, 0.5, 0), (HEAD, 0.6, 0.75, 0.15)])
def test_the_feather_lies_wholly_outside_the_region(area: Region, least: float, most: float, left: float) -> None:
    region, weight = area.masks(128)
    assert (weight[region > 0] == 1).all()
    assert least < float(region.mean()) < most
    assert float(weight.mean()) > float(region.mean())
    border = torch.cat([weight[0, 0], weight[0, -1], weight[0, :, 0], weight[0, :, -1]])
    assert float(border.max()) <= left


def test_the_head_holds_the_face() -> None:
    face, head = (region.masks(128)[0] for region in (FACE, HEAD))
    assert (head >= face).all()


def test_level_is_1_on_the_region_s_edge_for_arrays_and_tensors() -> None:
    u, v = torch.tensor([0.503 + 0.30, 0.503]), torch.tensor([0.622, 0.622])
    assert FACE.level(u, v).tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert FACE.level(u.numpy(), v.numpy()).tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert feather(torch.tensor([0.5, 1.0, 1.5])).tolist() == [1.0, 1.0, 0.0]


def test_ever_finer_pixelation_shows_ever_more() -> None:
    faces = batch().source_B3HW
    assert faces is not None
    smooth = torch.nn.functional.avg_pool2d(faces, 9, 1, 4)
    errors = [float((FACE.pixelated(smooth, cells) - smooth).abs().mean()) for cells in (0, 1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    region = FACE.masks(PX)[0].bool().expand_as(faces)
    assert (FACE.pixelated(faces, 0)[region] == 0).all()
    assert torch.equal(FACE.pixelated(faces, 4)[~region], faces[~region])
