"""Photos of two and three faces: n times epsilon bounds the whole release exactly, found by going through all of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonymousnet.align.region import FACE
from anonymousnet.data.attributes import ATTRIBUTES, INDEX
from anonymousnet.privacy.mechanism import UNIFORMS, Mechanism, covers
from anonymousnet.privacy.population import Population

PAIR = ("Male", "Smiling")


@st.composite
def mechanisms(draw: st.DrawFn, attributes: int) -> tuple[Mechanism, tuple[str, ...]]:
    """A random population of one or two attributes, in one group or two that hang together, and random gammas."""
    names = PAIR[:attributes]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = rng.exponential(size=2**attributes) + 0.02
    values = np.array(list(itertools.product([False, True], repeat=attributes)))
    table = np.zeros((600, len(ATTRIBUTES)), dtype=bool)
    table[:, [INDEX[name] for name in names]] = values[rng.choice(len(values), size=600, p=weights / weights.sum())]
    groups = {"one": names} if draw(st.booleans()) else {f"g{name}": (name,) for name in names}
    gammas = {name: float(rng.choice([0.03, 0.4, 0.9]) * rng.uniform(0.9, 1)) for name in groups}
    return Mechanism(Population.learn(table, groups), gammas), names


def _chances(mechanism: Mechanism, names: tuple[str, ...], faces: int) -> np.ndarray:
    """P[all faces' released vectors | all faces' true vectors]: (truths^faces, values^faces), as `release` draws.

    The uniform numbers of all faces are cut where any step of any group lies: within such a box nothing changes, so
    that the boxes' volumes add up to the exact chances.
    """
    columns = [INDEX[name] for name in names]
    edges = []
    for steps in mechanism._steps:
        inner = np.unique(steps[np.isfinite(steps)])
        edges.append(np.unique(np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])))
    used = [i for i, edge in enumerate(edges) if len(edge) > 2]
    boxes = list(itertools.product(*(range(len(edges[i]) - 1) for i in used)))
    middle = np.full((len(boxes), UNIFORMS), 0.5)
    volume = np.ones(len(boxes))
    for row, box in enumerate(boxes):
        for i, part in zip(used, box, strict=True):
            low, high = edges[i][part : part + 2]
            middle[row, i] = (low + high) / 2
            volume[row] *= high - low
    joint = np.array(list(itertools.product(range(len(boxes)), repeat=faces)))
    joint_volume = volume[joint].prod(1)
    vectors = np.array(list(itertools.product([False, True], repeat=len(names))))
    truths = list(itertools.product(range(len(vectors)), repeat=faces))
    found = np.zeros((len(truths), len(vectors) ** faces))
    bits = 1 << np.arange(len(names))[::-1]
    places = len(vectors) ** np.arange(faces)[::-1]
    for row, truth in enumerate(truths):
        true = np.zeros((faces, len(ATTRIBUTES)), dtype=bool)
        true[:, columns] = vectors[list(truth)]
        # All faces of a photo are released in one call, as they are in a batch.
        released = mechanism.release(np.tile(true, (len(joint), 1)), middle[joint].reshape(-1, UNIFORMS))
        values = (released[:, columns] @ bits).reshape(len(joint), faces)
        np.add.at(found[row], values @ places, joint_volume)
    return found


def _worst(chances: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        logs = np.log(chances[:, chances.max(axis=0) > 0])
    return float((logs.max(axis=0) - logs.min(axis=0)).max())


@pytest.mark.parametrize(("faces", "attributes"), [(1, 2), (2, 2), (2, 1), (3, 1)])
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_photo_of_n_faces_spends_n_times_epsilon_and_no_less(faces, attributes, data):
    mechanism, names = data.draw(mechanisms(attributes))
    chances = _chances(mechanism, names, faces)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-9)
    assert _worst(chances) == pytest.approx(faces * mechanism.epsilon, abs=1e-9)


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_photos_that_differ_in_k_of_their_faces_spend_k_times(data):
    mechanism, names = data.draw(mechanisms(1))
    chances = _chances(mechanism, names, 3).reshape(2, 2, 2, -1)
    assert max(_worst(chances[:, a, b]) for a in (0, 1) for b in (0, 1)) == pytest.approx(mechanism.epsilon, abs=1e-9)
    two = max(_worst(chances[..., c, :].reshape(4, -1)) for c in (0, 1))
    assert two == pytest.approx(2 * mechanism.epsilon, abs=1e-9)


def test_one_draw_for_two_faces_would_break_it():
    """The proof needs independent draws: with a shared one, some pairs of answers are impossible for some truths."""
    table = np.zeros((1000, 40), dtype=bool)
    table[:400, INDEX["Smiling"]] = True
    mechanism = Mechanism(Population.learn(table, {}), {"Smiling": 0.5})
    truth = np.zeros((2, 40), dtype=bool)
    truth[1, INDEX["Smiling"]] = True
    shared = np.repeat(np.linspace(0.001, 0.999, 500), 2)[:, None] * np.ones(UNIFORMS)
    both = mechanism.release(np.tile(truth, (500, 1)), shared)[:, INDEX["Smiling"]].reshape(-1, 2)
    assert not (both[:, 0] & ~both[:, 1]).any()


def test_the_words_speak_of_faces_and_photos():
    table = np.zeros((1000, 40), dtype=bool)
    table[:400, INDEX["Smiling"]] = True
    mechanism = Mechanism(Population.learn(table, {}), {"Smiling": 0.5})
    words = covers(mechanism, 1.0, FACE, True, 0.25)
    assert f"epsilon {mechanism.epsilon + 0.25:.4g} per face" in words
    assert "for any two photos that agree outside the painted regions" in words
    assert "for a photo of n faces n times that epsilon" in words
    assert "per image" not in words
