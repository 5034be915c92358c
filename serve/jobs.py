"""Bulk jobs: `anonymousnet anonymize s3://... s3://...` as a Ray job, started and watched over HTTP.

The command line is the boundary: what a job does, and how it survives, is the command's business. What is told of a
job is its counts; names of photos, reasons and private evidence stay in the audit place.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shlex
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from anonymousnet.config import Config
from anonymousnet.errors import AnonymousNetError
from anonymousnet.parts import Parts
from anonymousnet.privacy.mechanism import Mechanism
from anonymousnet.serve.asked import Asked, check_epsilon
from anonymousnet.serve.problems import Problem, Refused

T = TypeVar("T")
PROGRESS = ("done", "of", "photos_per_second", "faces_per_second", "eta_s", "quarantined")
SUMMARY = ("job", "photos", "released", "quarantined", "faces", "skipped", "epsilon", "t", "strength", "guarantee",
           "manifest", "signer")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Jobs:
    """The cluster's jobs that came through this service."""

    config: Config

    async def submit(self, source: str, target: str, asked: Asked) -> str:
        """Start a job; its id. Raises Problem."""
        if not self.config.serve.buckets:
            raise Problem("policy", "bulk jobs are switched off; the operator names buckets in serve.buckets")
        if asked.budget is not None:
            raise Problem("policy", "a key with a budget cannot start bulk jobs, which nothing would charge to it")
        if asked.photo_limit < math.inf:
            raise Problem(
                "policy", "a key with max_epsilon cannot start bulk jobs, whose photos nothing would hold to it"
            )
        try:
            check_epsilon(asked, await asyncio.to_thread(_solved, self.config, asked), 1)
        except AnonymousNetError as error:
            raise Refused.of(error).problem() from None
        known = self.config.serve.buckets
        for place in (source, target):
            for allowed in (known, known if asked.buckets is None else asked.buckets):
                if not any(within(place, one) for one in allowed):
                    raise Problem("policy", f"{place} is in none of the places that jobs may use here, with this key")
        identity = uuid.uuid4().hex
        command = shlex.join(command_of(self.config, asked, source, target, identity))
        metadata = {"service": "anonymousnet", "key": asked.key or ""}
        await _asked_of_ray(
            lambda client: client.submit_job(entrypoint=command, submission_id=identity, metadata=metadata)
        )
        return identity

    async def state(self, identity: str, key: str | None) -> dict[str, Any]:
        """How far a job is. Raises Problem; a job of another key is not found."""
        info = await _asked_of_ray(lambda client: client.get_job_info(identity))
        if info.metadata != {"service": "anonymousnet", "key": key or ""}:
            raise Problem("not-found", "there is no such job")
        logs = await _asked_of_ray(lambda client: client.get_job_logs(identity))
        return {"id": identity, "state": str(info.status).lower(), **told(logs)}


def _solved(config: Config, asked: Asked) -> float:
    """Epsilon of a face. Raises ConfigError."""
    return Mechanism.solve(Parts(config).population, asked.obfuscate).epsilon + config.align.epsilon


def within(place: str, allowed: str) -> bool:
    """Whether s3://bucket/prefix lies in an allowed place, and leads nowhere else."""
    if any(part in ("", ".", "..") for part in place.rstrip("/").split("/")[2:]):
        return False
    return f"{place.rstrip('/')}/".startswith(f"{allowed.rstrip('/')}/")


def command_of(config: Config, asked: Asked, source: str, target: str, identity: str) -> list[str]:
    """The command line of a job."""
    settings = asked.config(config).model_dump(mode="json", exclude_defaults=True, exclude={"serve"})
    given = [
        f"{key}={json.dumps(value)}" for section, tree in settings.items() for key, value in _leaves(section, tree)
    ]
    audit = f"{(config.serve.audit or '').rstrip('/')}/{identity}"
    return [sys.executable, "-m", "anonymousnet.cluster.cli", "anonymize", source, target, "--audit", audit, "--json",
            "--address", "auto", *(word for setting in given for word in ("--set", setting))]  # fmt: skip


def told(logs: str) -> dict[str, Any]:
    """What a job's output says of its progress and its end; nothing but counts and public facts."""
    found: dict[str, Any] = {"progress": None, "summary": None}
    for line in logs.splitlines():
        try:
            said = json.loads(line) if line.startswith("{") else None
        except ValueError:
            continue
        if isinstance(said, dict) and "eta_s" in said:
            found["progress"] = {name: said[name] for name in PROGRESS if name in said}
        elif isinstance(said, dict) and "manifest" in said:
            found["summary"] = {name: said[name] for name in SUMMARY if name in said}
    return found


def _leaves(key: str, value: Any) -> list[tuple[str, Any]]:
    return [(key, value)] if not isinstance(value, dict) else [
        leaf for name, below in value.items() for leaf in _leaves(f"{key}.{name}", below)
    ]  # fmt: skip


async def _asked_of_ray(question: Callable[[Any], T]) -> T:
    """An answer of Ray's job server. Raises Problem."""

    def ask() -> T:
        from ray.job_submission import JobSubmissionClient

        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would rather ask whom these name than our own
            os.environ.pop(name, None)
        return question(JobSubmissionClient(ray.get_runtime_context().gcs_address))

    try:
        return await asyncio.to_thread(ask)
    except (RuntimeError, ConnectionError, OSError) as error:
        if "does not exist" in str(error) or "404" in str(error):
            raise Problem("not-found", "there is no such job") from None
        raise Problem("unavailable", "Ray's job server does not answer") from None
