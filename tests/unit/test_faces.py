"""FaceBatch's shapes and Stage's template: validation before and after, no gradients, time taken."""

from __future__ import annotations

import pytest
import torch

from anonymousnet.errors import StageError
from anonymousnet.faces import FaceBatch
from anonymousnet.stage import Stage

KEY = bytes(32)


def batch(n: int = 2, px: int = 32) -> FaceBatch:
    return FaceBatch(torch.zeros(n, 3, px, px), torch.ones(n, 1, px, px), (KEY,) * n, (KEY,) * n)


class Paint(Stage):
    name = "paint"
    needs = ("released_B40",)
    gives = ("faces_B3HW",)

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    def apply(self, batch: FaceBatch) -> FaceBatch:
        assert not torch.is_grad_enabled()
        return batch.with_(faces_B3HW=torch.full_like(batch.context_B3HW, self.value))


def released(n: int = 2) -> FaceBatch:
    return batch(n).with_(released_B40=torch.zeros(n, 40, dtype=torch.bool))


def test_a_stage_gives_what_it_says_and_is_timed() -> None:
    done = Paint()(released())
    assert done.faces_B3HW is not None
    assert done.seconds["paint"] >= 0


def test_a_stage_out_of_order_is_refused_by_name() -> None:
    with pytest.raises(StageError, match="paint: released_B40 is missing"):
        Paint()(batch())


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_a_stage_that_leaves_the_range_is_refused(value: float) -> None:
    with pytest.raises(StageError, match="faces: expected values in"):
        Paint(value)(released())


def test_an_empty_batch_is_fine() -> None:
    assert len(Paint()(released(0))) == 0


def test_a_stage_that_forgets_its_result_or_loses_a_face_is_refused() -> None:
    class Forgets(Paint):
        def apply(self, batch: FaceBatch) -> FaceBatch:
            return batch

    class Loses(Paint):
        def apply(self, batch: FaceBatch) -> FaceBatch:
            return released(1).with_(faces_B3HW=torch.zeros(1, 3, 32, 32))

    with pytest.raises(StageError, match="was not returned"):
        Forgets()(released())
    with pytest.raises(StageError, match="expected 2 faces back, got 1"):
        Loses()(released())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context_B3HW": torch.zeros(2, 3, 32, 32, dtype=torch.float64)}, "context: expected float32"),
        ({"source_B3HW": torch.zeros(2, 3, 16, 16)}, "source: expected float32 of shape"),
        ({"region_B1HW": torch.full((2, 1, 32, 32), 2.0)}, "region: expected values in"),
        ({"probabilities_B40": torch.zeros(2, 39)}, "probabilities: expected float32 of shape"),
        ({"released_B40": torch.zeros(2, 40)}, "released: expected bool"),
        ({"draw_keys": (KEY,)}, "keys: expected 2 of each, got 1 and 2"),
    ],
)
def test_wrong_shapes_types_and_ranges_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(StageError, match=words):
        batch().with_(**changes).check()


def test_call_cannot_be_overridden_without_a_type_checker_noticing() -> None:
    assert getattr(Stage.__call__, "__final__", False)


def test_pickling_keeps_every_value() -> None:
    import pickle

    before = batch(2).with_(released_B40=torch.ones(2, 40, dtype=torch.bool), public={"epsilon": 3.0})
    after = pickle.loads(pickle.dumps(before))
    for name in ("context_B3HW", "region_B1HW", "released_B40"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert (after.draw_keys, after.public, after.source_B3HW) == (before.draw_keys, before.public, None)
    after.context_B3HW.add_(1)  # and it can be written to


@pytest.mark.parametrize("faces", [1, 3])
def test_one_value_expanded_travels_as_one_value(faces: int) -> None:
    import pickle

    before = batch(faces)
    b, _, h, w = before.context_B3HW.shape
    blank = torch.zeros(1, 1, 1, 1)
    before = before.with_(context_B3HW=blank.expand(b, 3, h, w), region_B1HW=blank.expand(b, 1, h, w))
    sent = pickle.dumps(before)
    assert len(sent) < 4 * h * w
    assert pickle.loads(sent).context_B3HW.shape == (b, 3, h, w)
