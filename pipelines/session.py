"""A Ray of our own on this machine, or somebody's cluster: the same code runs on both."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TypeVar

import ray

from anonymousnet.errors import AnonymousNetError, ClusterError

T = TypeVar("T")
LOGICAL_CPUS = 8
"""A local Ray is given at least this many: a pipeline's operators each hold one, and with fewer they wait for ever."""
OBJECT_STORE = 1 << 30
"""Bytes of shared memory that a local Ray may take."""
KNOCK_S = 10.0
"""Seconds in which a cluster's port must answer."""


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Be connected to Ray: one that is already there in this process, the cluster at `address`, or (None) a local one,
    on loopback, that ends with the block. Raises ClusterError when nothing answers at `address`.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers yield to every other program (15)
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}  # processes that each take all cores starve one another
    try:
        if address is None:
            ray.init(
                address="local", num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1), include_dashboard=False,
                object_store_memory=OBJECT_STORE, _node_ip_address="127.0.0.1", runtime_env=environment,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
        else:
            _knock(address)
            ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # Ray raises bare ones too, such as when its start takes more than 30 s
        remedy = "check --address, or leave it out to run on this machine"
        if address is None:
            remedy = "try again when it is less busy"
        said = " ".join(str(error).split())
        raise ClusterError(f"no Ray answers at {address or 'this machine'}: {said}; {remedy}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`: Ray itself would keep trying for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


def cause_of(error: BaseException, tries: int) -> AnonymousNetError:
    """Our own error, from within Ray's wrapping of it; all else is the cluster's. `tries`: lives of a worker."""
    from ray.exceptions import RayActorError, RayError

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, AnonymousNetError) and not isinstance(link, RayError):
            return type(link)(str(link).splitlines()[0])  # Ray appends advice of its own
        link = getattr(link, "cause", None) or link.__cause__
    if isinstance(error, RayActorError):
        said = f"a worker died {tries + 1} times over the same photos, for want of memory or of a photo it cannot stand"
    else:
        said = str(error).strip().splitlines()[-1]
    return ClusterError(f"Ray gave up: {said}; what is finished is kept, run the same command again")


def persistently(start: Callable[[], Iterator[T]], tries: int) -> Iterator[T]:
    """What `start()` yields; where processes are lost it is called again, as long as something came in between.

    Calls to a machine that is gone fail, and use up their retries, before Ray notices that it is gone. Raises what
    `cause_of` makes of all other errors.
    """
    from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayError, WorkerCrashedError

    finished = True
    while finished:
        finished = False
        try:
            for one in start():
                finished = True
                yield one
            return
        except RayError as error:
            lost = isinstance(error, RayActorError | NodeDiedError | ObjectLostError | WorkerCrashedError)
            if not (finished and lost):
                raise cause_of(error, tries) from error


def software() -> dict[str, str]:
    """What the bytes of a face depend on: versions by name."""
    return {name: version(name) for name in ("anonymousnet", "numpy", "onnxruntime", "pillow", "pyarrow", "torch")}
