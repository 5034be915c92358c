"""The deployment that sees photos: decode, detect and align; then the stages; then paste and encode.

A photo is only ever here, in memory: the stages get the aligned faces, and after Stage I not even those.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from ray.serve.handle import DeploymentHandle

from anonymousnet.anonymizer import Anonymizer, Prepared
from anonymousnet.config import Config
from anonymousnet.data.attributes import ATTRIBUTES
from anonymousnet.data.images import encode_photo
from anonymousnet.errors import AnonymousNetError, FaceError
from anonymousnet.faces import FaceBatch
from anonymousnet.parts import STAGES, Parts
from anonymousnet.privacy.ledger import Spend
from anonymousnet.privacy.randomness import derive
from anonymousnet.serve.asked import Asked, check_epsilon
from anonymousnet.serve.calls import Sleepers, by_value, call
from anonymousnet.serve.metrics import Metrics
from anonymousnet.serve.problems import Refused
from anonymousnet.serve.release_key import load_the_key
from anonymousnet.serve.stages import StageReplica
from anonymousnet.serve.wire import merged, sent

T = TypeVar("T")
Handle = DeploymentHandle[Any]
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class TooManyFaces(FaceError):
    """The photo has more faces than a request may bring."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A released photo and its public evidence, left to right."""

    photo: bytes
    media_type: str
    width: int
    height: int
    faces: list[dict[str, Any]]
    weights: dict[str, str]


class Align:
    """Photo in, photo out. `stages`: the deployment of each stage; none: they are all in this replica."""

    def __init__(self, config: Config, mark: bytes, stages: Mapping[str, Handle], books: Handle) -> None:
        self.config, self.metrics = _within(config), Metrics()
        self.parts = Parts(self.config)
        self.key = load_the_key(config, mark)
        self.anonymizer = Anonymizer.of(self.parts, self.key)
        self.stages = {name: by_value(handle) for name, handle in stages.items()}
        self._thread, size = ThreadPoolExecutor(1, thread_name_prefix="align"), config.serve.fused_replicas
        self.fused = None if stages else StageReplica(self.config, STAGES, size, self.parts, self._thread)
        sizes = {name: getattr(config.serve, name) for name in stages}
        self._sleepers = Sleepers(
            {self.stages[name].awake: size.downscale_s for name, size in sizes.items() if size.min == 0}
        )
        self.books, self._pays = by_value(books), config.release.ledger is not None
        self._probe()

    async def anonymize(self, data: bytes, asked: Asked) -> Answer | Refused:
        """De-identify every face of a photo; all of it, or nothing."""
        until = time.monotonic() + asked.left_s
        self._sleepers.wake(asked.left_s)
        try:
            anonymizer = await self._cpu(until, functools.partial(self._under, asked))
            with self.metrics.timed("align"):
                prepared = await self._cpu(until, lambda: self._prepare(anonymizer, data, asked))
            done = await self._through(STAGES, prepared.batch, asked, until)
            if isinstance(done, Refused):
                return done
            with self.metrics.timed("finish"):
                answer = await self._cpu(until, lambda: self._finish(anonymizer, prepared, done))
            if (refused := await self._spend(anonymizer, prepared, asked, until)) is not None:
                return refused
        except _Late:
            return Refused("DeadlineExceeded", "")
        except AnonymousNetError as error:
            return Refused.of(error)
        except (MemoryError, ArithmeticError, ValueError, RuntimeError) as error:
            return Refused(type(error).__name__, "")
        self.metrics.released(len(answer.faces), sum(face["epsilon"] for face in answer.faces))
        return answer

    async def attributes(self, data: bytes, asked: Asked) -> list[dict[str, dict[str, Any]]] | Refused:
        """What Stage I reads in each face (`models.Read`). PRIVATE: for the person whose photo it is."""
        until = time.monotonic() + asked.left_s
        try:
            prepared = await self._cpu(until, lambda: self._prepare(self.anonymizer, data))
            seen = await self._through(STAGES[:1], prepared.batch, asked, until)
        except _Late:
            return Refused("DeadlineExceeded", "")
        except AnonymousNetError as error:
            return Refused.of(error)
        if isinstance(seen, Refused):
            return seen
        assert seen.probabilities_B40 is not None
        assert seen.read_B40 is not None
        shares, answers = seen.probabilities_B40.tolist(), seen.read_B40.tolist()
        named = [[dict(zip(ATTRIBUTES, row, strict=True)) for row in rows] for rows in (shares, answers)]
        return [{"probabilities": share, "attributes": yes} for share, yes in zip(*named, strict=True)]

    async def ready(self, asked: Asked) -> Refused | None:
        """Whether a face goes through all stages; those that may be at 0 replicas are left asleep."""
        px, until = self.parts.face_px, time.monotonic() + asked.left_s
        blank = torch.zeros(1, 3, px, px)
        faces = FaceBatch(
            context_B3HW=blank, region_B1HW=torch.ones(1, 1, px, px), draw_keys=(bytes(32),), code_keys=(bytes(32),),
            strength=asked.strength, source_B3HW=blank,
        )  # fmt: skip
        awake = list(itertools.takewhile(lambda name: getattr(self.config.serve, name).min > 0, STAGES))
        done = await self._through(STAGES if self.fused else awake, faces, asked, until)
        return done if isinstance(done, Refused) else None

    async def check_health(self) -> None:
        """Ray replaces a replica whose detector, or a network, does not run."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._probe)

    async def _through(
        self, names: Sequence[str], faces: FaceBatch, asked: Asked, until: float
    ) -> FaceBatch | Refused:  # fmt: skip
        """Some of the stages, each in a replica of its own, or all of them here."""
        left = until - time.monotonic()
        if self.fused is not None:
            return await self.fused.run(faces, asked.before(left))
        done = faces
        for name in names:
            left = until - time.monotonic()
            answer = await call(self.stages[name].run, sent(name, done), asked.before(left), left_s=left)
            if isinstance(answer, Refused):
                return answer
            done = merged(name, done, answer)
        return done

    async def _cpu(self, until: float, work: Callable[[], T]) -> T:
        """Work in the one thread: two photos at once would only take each other's core. Raises _Late."""

        def in_time() -> T:
            if time.monotonic() > until:
                raise _Late
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)

    def _under(self, asked: Asked) -> Anonymizer:
        config = asked.config(self.config)
        return self.anonymizer.under(config, self.parts.mechanism(config.obfuscate))

    def _prepare(self, anonymizer: Anonymizer, data: bytes, asked: Asked | None = None) -> Prepared:
        """`asked`: under which policy a release is to be made of it; None: none is."""
        prepared = anonymizer.prepare(data, asked.subject if asked else None)
        if len(prepared.batch) > (most := self.config.serve.max_faces):
            raise TooManyFaces(f"{len(prepared.batch)} faces, the limit is {most}; cut the photo into parts")
        if asked is not None:
            check_epsilon(asked, anonymizer.epsilon, len(prepared.batch))
        return prepared

    def _finish(self, anonymizer: Anonymizer, prepared: Prepared, done: FaceBatch) -> Answer:
        release = anonymizer.finish(prepared, done)
        photo, suffix = encode_photo(release.image, self.config.release.format, self.config.release.quality)
        height, width = release.image.rgb.shape[:2]
        faces = [asdict(face.evidence.public) for face in release.faces]
        return Answer(photo, MEDIA_TYPES[suffix], width, height, faces, faces[0]["weights"])

    async def _spend(self, anonymizer: Anonymizer, prepared: Prepared, asked: Asked, until: float) -> Refused | None:
        """Have it written down before the photo is let out."""
        if not self._pays:
            return None
        spends = anonymizer.spends(prepared)
        if asked.key and asked.subject is None:  # one key's budget must not tell what another key's holder has sent
            scope = asked.key.encode()
            spends = [
                one._replace(subject=derive(self.key, "key", asked.key, one.subject), scope=scope) for one in spends
            ]
        if asked.key and asked.budget:
            whole = derive(self.key, "api key", asked.key)
            spends += [Spend(whole, one.photo, one.release, one.epsilons, asked.budget) for one in spends]
        answer: Refused | None = await call(self.books.spend, spends, left_s=until - time.monotonic())
        return answer

    def _probe(self) -> None:
        self.anonymizer.detector(np.zeros((64, 64, 3), np.uint8))
        if self.fused is not None:  # in the same turn: in one thread, a second would wait behind all photos again
            self.fused.passes.probe()


class _Late(Exception):
    """Nobody waits for this any more."""


def _within(config: Config) -> Config:
    """The configuration with the service's limit of pixels."""
    most = min(config.serve.max_pixels, config.align.max_pixels)
    return config.model_copy(update={"align": config.align.model_copy(update={"max_pixels": most})})
