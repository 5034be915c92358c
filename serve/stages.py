"""The stages as replicas: each call brings one photo's faces, and a pass takes those of many calls at once.

The stages are those of `anonymousnet.stages`. What differs from call to call (epsilon, strength, perturbation)
picks the stage, and calls that picked the same one go through it together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from ray import serve

from anonymousnet.config import Config
from anonymousnet.config_serve import ReplicasConfig
from anonymousnet.faces import FaceBatch
from anonymousnet.parts import Parts
from anonymousnet.protect import together
from anonymousnet.serve.asked import Asked
from anonymousnet.serve.metrics import Metrics
from anonymousnet.serve.problems import Refused
from anonymousnet.serve.wire import given
from anonymousnet.stage import Stage

Call = tuple[FaceBatch, Asked, float]
"""Faces, what was asked, and the monotonic time from which on nobody waits for them."""
Ran = Callable[[str, float, int], None]
"""Told of every pass: stage, seconds, faces."""
log = logging.getLogger(__name__)


class Passes:
    """Runs some of the four stages, in their order, over the faces of several calls. Knows no Ray."""

    def __init__(
        self, config: Config, names: Sequence[str], parts: Parts | None = None, ran: Ran = lambda *_: None
    ) -> None:  # fmt: skip
        self.config, self.names, self.ran = config, names, ran
        self.parts = parts or Parts(config)
        self._looked = time.monotonic()

    def __call__(self, calls: Sequence[Call]) -> list[FaceBatch | Refused]:
        """What became of each call's faces."""
        if time.monotonic() - self._looked > self.config.serve.watch_s:
            self._looked = time.monotonic()
            if self.parts.refresh():
                log.info("newer weights are in use")
        done: list[FaceBatch | Refused] = [batch for batch, _, _ in calls]
        for i, (_, _, until) in enumerate(calls):
            if time.monotonic() > until:
                done[i] = Refused("DeadlineExceeded", "")
        for name in self.names:
            self._stage(name, calls, done)
        return done

    def _stage(self, name: str, calls: Sequence[Call], done: list[FaceBatch | Refused]) -> None:
        """One stage: calls that need the very same one go through it together."""
        groups: dict[tuple[Stage, float], list[int]] = defaultdict(list)
        for i, (_, asked, _) in enumerate(calls):
            if isinstance(faces := done[i], FaceBatch):
                try:
                    stage = self.parts.stage(name, asked.config(self.config))
                except Exception as error:  # settings that cannot be had end this call, not its neighbours
                    done[i] = Refused.of(error)
                    continue
                if stage is not None:
                    groups[stage, faces.strength].append(i)
        for (stage, _), rows in groups.items():
            batches = [batch for i in rows if isinstance(batch := done[i], FaceBatch)]
            started = time.perf_counter()
            for i, result in zip(rows, together(stage, batches), strict=True):
                done[i] = Refused.of(result) if isinstance(result, Exception) else result
            self.ran(name, time.perf_counter() - started, sum(map(len, batches)))

    def probe(self) -> None:
        """Run the networks on a tiny input. Raises whatever is wrong."""
        px, none = self.parts.face_px, torch.zeros(1, 40, dtype=torch.bool)
        faces = FaceBatch(
            context_B3HW=torch.zeros(1, 3, px, px), region_B1HW=torch.ones(1, 1, px, px), draw_keys=(bytes(32),),
            code_keys=(bytes(32),), source_B3HW=torch.zeros(1, 3, px, px) if "predict" in self.names else None,
            probabilities_B40=torch.zeros(1, 40), read_B40=none, shown_B40=none, released_B40=none,
            faces_B3HW=torch.zeros(1, 3, px, px),
        )  # fmt: skip
        for name in self.names:
            if (stage := self.parts.stage(name, self.config)) is not None:
                faces = stage(faces)


class StageReplica:
    """A deployment of one stage; or, within a fused replica, of all four in a row."""

    def __init__(
        self, config: Config, names: Sequence[str], size: ReplicasConfig, parts: Parts | None = None,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:  # fmt: skip
        # One thread: two passes at once would only take each other's core, and wait for Python's lock after each layer.
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix=names[0])
        self.passes = Passes(config, names, parts, Metrics().ran)
        self.passes.probe()
        self._names, self._alone = names, size.batch == 1
        self._batched.set_max_batch_size(size.batch)  # type: ignore[attr-defined]
        self._batched.set_batch_wait_timeout_s(size.wait_s)  # type: ignore[attr-defined]

    async def run(self, faces: FaceBatch, asked: Asked) -> FaceBatch | Refused:
        """One photo's faces through this stage."""
        asking = (faces, asked, time.monotonic() + asked.left_s)
        done = self.passes([asking])[0] if self._alone else await self._batched(asking)
        return given(self._names[0], done) if len(self._names) == 1 and isinstance(done, FaceBatch) else done

    async def awake(self) -> None:
        """Nothing: that it is called starts a replica where there is none."""

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0)
    async def _batched(self, calls: list[Call]) -> list[FaceBatch | Refused]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.passes, calls)

    async def check_health(self) -> None:
        """Ray replaces a replica whose network does not run."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.passes.probe)
