"""A Ray of our own on this machine, or somebody's cluster: the same code runs on both."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

import ray
from ray._private import auto_init_hook, ray_constants

from anonymousnet.errors import AnonymousNetError, ClusterError
from anonymousnet.local_ray import keep_private

T = TypeVar("T")
Again = Callable[[], None] | None
LOGICAL_CPUS = 8
"""A local Ray is given at least this many: a pipeline's operators each hold one, and with fewer they wait for ever."""
OBJECT_STORE = 1 << 30
"""Bytes of shared memory that a local Ray may take."""
KNOCK_S = 10.0
"""Seconds in which a cluster's port must answer."""
SILENT_S = 60.0
"""So long after a machine was lost a job may be silent."""


@contextmanager
def ray_session(address: str | None = None) -> Iterator[Again]:
    """Be connected to Ray: one that is already there in this process, the cluster at `address`, or (None) a local one,
    on loopback, that ends with the block. Yields what leaves it, with all that runs for us there, and joins it anew; or
    None, where it is not ours to leave. Raises ClusterError when nothing answers at `address`.
    """
    if ray.is_initialized():
        yield None
        return

    def again() -> None:
        ray.shutdown()
        _join(address)

    _join(address)
    try:
        yield again
    finally:
        ray.shutdown()


def _join(address: str | None) -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers yield to every other program (15)
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # they lack our environment: nobody would use them
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}  # processes that each take all cores starve one another
    # A thread that is left behind would start a Ray of its own. RAY_ENABLE_AUTO_CONNECT is read when Ray is imported.
    auto_init_hook.enable_auto_connect = False
    on_sigterm = signal.getsignal(signal.SIGTERM)
    folder = keep_private() if address is None else None
    try:
        if address is None:
            ray_constants.ENABLE_RAY_CLUSTER = False  # Ray has read the environment already, when it was imported
            ray.init(
                address="local", num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1), include_dashboard=False,
                object_store_memory=OBJECT_STORE, _node_ip_address="127.0.0.1", _temp_dir=str(folder),
                runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False,
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
    if callable(on_sigterm):  # Ray has come with a handler of its own
        with suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, on_sigterm)


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


def persistently(start: Callable[[], Iterator[T]], tries: int, again: Again = None) -> Iterator[T]:
    """What `start()` yields; where processes are lost it is called again, as long as something came in between.

    Calls to a machine that is gone fail, and use up their retries, before Ray notices that it is gone. Now and then
    they do not even fail: when a machine is lost and then nothing comes for SILENT_S, `again` (of `ray_session`) is
    called first. Raises what `cause_of` makes of all other errors.
    """
    from ray import exceptions as ray

    losses = (
        ray.NodeDiedError, ray.ObjectLostError, ray.RayActorError, ray.WorkerCrashedError,
        ray.StreamingGeneratorReplayInconsistentError,  # a repeated task had less to say than before
    )  # fmt: skip
    finished = True
    while finished:
        finished = False
        try:
            for one in _attended(start, again):
                finished = True
                yield one
            return
        except (ray.RayError, _Hung) as error:
            if again is not None and isinstance(error, _Hung):  # each takes the loss of another machine
                again()
                finished = True
            elif not (finished and isinstance(error, losses)):
                raise cause_of(error, tries) from error


class _Hung(Exception):
    """A machine was lost, and since then nothing has come."""


def _attended(start: Callable[[], Iterator[T]], again: Again) -> Iterator[T]:
    """What `start()` yields, asked for in a thread of its own, which can be left waiting. Raises _Hung."""
    if again is None:
        yield from start()
        return
    came: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    over = threading.Event()

    def ask() -> None:
        try:
            for one in start():
                came.put((one, None))
                if over.is_set():
                    return
            came.put((None, StopIteration()))
        except BaseException as error:
            came.put((None, error))

    before = _machines()
    threading.Thread(target=ask, daemon=True).start()
    try:
        while True:
            try:
                one, error = came.get(timeout=SILENT_S)
            except Empty:
                if before <= _machines():
                    continue
                raise _Hung(f"a machine was lost, and nothing came for {SILENT_S:.0f} s") from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(T, one)
    finally:
        over.set()


def _machines() -> set[str]:
    """Who is alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
