"""The stages as replicas: calls of different settings go through one pass, and each gets what it would get alone."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from anonymousnet.anonymizer import Anonymizer
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import encode_photo
from anonymousnet.data.synthetic import render_page
from anonymousnet.faces import FaceBatch
from anonymousnet.parts import KEPT, STAGES, Parts
from anonymousnet.serve.asked import Asked, Query, ask
from anonymousnet.serve.keys import ApiKey
from anonymousnet.serve.problems import Problem, Refused
from anonymousnet.serve.stages import Passes
from anonymousnet.weights.versions import publish

KEY = bytes(range(32))
WANTED = [
    Query(),
    Query(epsilon=3.0, keep=("Smiling",), perturbation=0.0),
    Query(strength=0.4, release="other"),
    Query(epsilon=3.0, protect=("Male",), perturbation=0.03, subject="somebody"),
]


def later() -> float:
    return time.monotonic() + 60


@pytest.fixture(scope="module")
def config(small_weights: list[str]) -> Config:
    return Config.load(None, [*small_weights, "precision=fp32", f"serve.keepable={json.dumps(ATTRIBUTES)}"])


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    pages = [render_page(i, faces=n, width=320)[0] for i, n in ((1, 1), (2, 2), (3, 1), (4, 1))]
    return [encode_photo_of(page) for page in pages]


def encode_photo_of(page: np.ndarray) -> bytes:
    from anonymousnet.data.images import Photo

    return encode_photo(Photo(page, None, "PNG"), "png", 95)[0]


def through(config: Config, photos: Sequence[bytes], names: Sequence[tuple[str, ...]]) -> list[bytes]:
    """All photos through passes of these stages at once, each under its own settings."""
    parts = Parts(config)
    base = Anonymizer.of(parts, KEY)
    asked = [ask(query, config, None) for query in WANTED]
    under = [base.under(one.config(config), parts.mechanism(one.obfuscate)) for one in asked]
    prepared = [one.prepare(photo, a.subject) for one, photo, a in zip(under, photos, asked, strict=True)]
    faces: list[FaceBatch | Refused] = [one.batch for one in prepared]
    for group in names:
        faces = Passes(config, group)([(f, a, later()) for f, a in zip(faces, asked, strict=True)])  # type: ignore[misc]
    released = [one.finish(p, f) for one, p, f in zip(under, prepared, faces, strict=True)]  # type: ignore[arg-type]
    return [encode_photo(one.image, "png", 95)[0] for one in released]


@pytest.mark.parametrize("names", [[(name,) for name in STAGES], [STAGES]], ids=["composed", "fused"])
def test_calls_of_different_settings_share_a_pass_and_change_nothing(
    config: Config, photos: list[bytes], names: Sequence[tuple[str, ...]]
) -> None:
    alone = []
    for photo, query in zip(photos, WANTED, strict=True):
        asked = ask(query, config, None)
        release = Anonymizer.load(asked.config(config), KEY)(photo, asked.subject)
        alone.append(encode_photo(release.image, "png", 95)[0])
    assert through(config, photos, names) == alone


def test_a_call_that_cannot_be_done_leaves_its_neighbours_alone(config: Config, photos: list[bytes]) -> None:
    base = Anonymizer.of(Parts(config), KEY)
    good, bad = base.prepare(photos[0]).batch, base.prepare(photos[2]).batch
    bad = bad.with_(source_B3HW=torch.full_like(bad.context_B3HW, float("nan")))
    asked = ask(Query(), config, None)
    done = Passes(config, STAGES)([(good, asked, later()), (bad, asked, later()), (good, asked, later() - 120)])
    assert isinstance(done[0], FaceBatch)
    assert done[1:] == [Refused("StageError", done[1].message), Refused("DeadlineExceeded", "")]  # type: ignore[union-attr]
    alone = Passes(config, STAGES)([(good, asked, later())])[0]
    assert torch.equal(alone.faces_B3HW, done[0].faces_B3HW)  # type: ignore[arg-type, union-attr]


def test_mechanisms_are_kept_and_bounded(config: Config) -> None:
    parts = Parts(config)
    first = parts.mechanism(config.obfuscate)
    assert parts.mechanism(config.obfuscate) is first
    for i in range(KEPT + 5):
        parts.stage("perturb", ask(Query(perturbation=0.0001 * (i + 1)), config, None).config(config))
    assert len(parts._made) == KEPT


def test_a_new_version_is_taken_up_and_a_broken_one_is_not(
    config: Config, tmp_path: Path, photos: list[bytes]
) -> None:  # fmt: skip
    publish(tmp_path / "v", "universal", {"v": torch.ones(3, 64, 64)}, {})
    mine = config.model_copy(update={
        "perturb": config.perturb.model_copy(update={"weights": str(tmp_path / "v")}),
        "serve": config.serve.model_copy(update={"watch_s": 0.001}),
    })  # fmt: skip
    asked, passes = ask(Query(), mine, None), Passes(mine, ("perturb",))
    batch = Anonymizer.of(Parts(mine), KEY).prepare(photos[0]).batch.with_(source_B3HW=None)
    batch = batch.with_(faces_B3HW=torch.zeros_like(batch.context_B3HW))

    def shift() -> float:
        time.sleep(0.01)
        done = passes([(batch, asked, later())])[0]
        assert isinstance(done, FaceBatch)
        assert done.faces_B3HW is not None
        return float(done.faces_B3HW.mean())

    before = shift()
    publish(tmp_path / "v", "universal", {"v": -torch.ones(3, 64, 64)}, {})
    assert shift() == -before != 0
    third = publish(tmp_path / "v", "universal", {"v": torch.zeros(3, 64, 64)}, {})
    shutil.rmtree(third)
    assert shift() == -before


def test_finish_refuses_a_face_read_with_other_weights(config: Config, photos: list[bytes]) -> None:
    parts = Parts(config)
    anonymizer = Anonymizer.of(parts, KEY, parts.stages(config))
    prepared = anonymizer.prepare(photos[0])
    done = anonymizer.run(prepared.batch)
    other = done.with_(public={**done.public, "weights": {"attributes": "0" * 64}})
    with pytest.raises(Exception, match="other weights"):
        anonymizer.finish(prepared, other)


class TestPolicy:
    def test_the_keys_policy_is_the_narrower(self, config: Config) -> None:
        key = ApiKey(name="acme", sha256="0" * 64, max_epsilon=4, min_strength=1, budget=9)
        asked: Asked = ask(Query(epsilon=4.0), config, key)
        assert (asked.obfuscate.epsilon, asked.key, asked.budget) == (4.0, "acme", 9)
        assert ask(Query(), config, key).obfuscate.epsilon == 4.0  # the server's default of 10 is more than it may
        for query in (Query(epsilon=5.0), Query(strength=0.8)):
            with pytest.raises(Problem) as refused:
                ask(query, config, key)
            assert refused.value.status == 403

    def test_keys_cannot_see_each_others_releases_and_subjects(self, config: Config) -> None:
        one, two = (ApiKey(name=name, sha256="0" * 64) for name in ("one", "two"))
        query = Query(release="summer", subject="alice")
        assert ask(query, config, one).release != ask(query, config, two).release
        assert ask(query, config, one).subject != ask(query, config, two).subject
        assert ask(query, config, None).release == "summer"

    def test_the_order_of_names_does_not_matter(self, config: Config) -> None:
        there, back = ("Smiling", "Male"), ("Male", "Smiling")
        assert ask(Query(keep=there), config, None) == ask(Query(keep=back), config, None)

    @pytest.mark.parametrize(("query", "status"), [
        (Query(epsilon=100.0), 403), (Query(epsilon=0.01), 403), (Query(strength=0.0), 403), (Query(strength=0.5), 422),
        (Query(perturbation=0.2), 403), (Query(keep=("Nose",)), 422), (Query(keep=("Male",), protect=("Male",)), 422),
    ])  # fmt: skip
    def test_what_is_not_allowed(self, config: Config, query: Query, status: int) -> None:
        with pytest.raises(Problem) as refused:
            ask(query, config, None)
        assert refused.value.status == status

    def test_keeping_everything_is_refused(self, config: Config) -> None:
        with pytest.raises(Problem, match="protects nothing"):
            ask(Query(keep=ATTRIBUTES), config, None)
