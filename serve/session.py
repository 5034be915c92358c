"""The service on a Ray of its own on this machine, or on somebody's cluster."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from anonymousnet.config import Config
from anonymousnet.errors import ClusterError

LOGICAL_CPUS = 16
"""A local Ray is given at least this many: deployments ask for more than a small machine has, and share its cores."""
OBJECT_STORE = 256 << 20
"""Bytes of shared memory that a local Ray may take; photos do not go through it."""

PROCESSES = {
    "OMP_NUM_THREADS": "1",  # processes that each take all cores starve one another
    # One event loop in each process: our replicas compute in threads of their own, so none of them holds it up, and
    # every call saves two changes of thread.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_PROXY_USE_GRPC": "1",  # by value from the proxy on: 3 ms less a request, and no body in shared memory
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "anonymousnet.serve.again:middlewares",
}
"""Environment of the service's processes."""


@contextmanager
def running(config: Config, address: str | None = None) -> Iterator[Callable[[], None]]:
    """The service, answering; what is yielded waits for SIGINT or SIGTERM. Requests under way are finished at the end.

    Raises ConfigError, ClusterError.
    """
    if config.serve.haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"  # read when Serve is imported, here and in its processes
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from anonymousnet.serve.app import NAME, check, graph

    check(config)
    settings = config.serve
    _join(address, bool(settings.buckets))
    try:
        serve.start(http_options=HTTPOptions(
            host=settings.host, port=settings.port, request_timeout_s=settings.deadline_s + 5
        ))  # fmt: skip
        serve.run(graph(config), name=NAME, route_prefix="/", logging_config=LoggingConfig(encoding="JSON"))
        yield _wait
        _drain(settings.deadline_s)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0]
        raise ClusterError(f"the service did not start: {said}; Ray's logs say more") from error
    finally:
        if address is None:
            serve.shutdown()
        else:
            serve.delete(NAME)  # the cluster may serve other things
        ray.shutdown()


def _drain(seconds: float) -> None:
    """Let requests under way finish: Serve takes all stages of an application away at once."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from anonymousnet.serve.app import NAME

    with suppress(TimeoutError, RayError, RayServeException):
        serve.get_app_handle(NAME).drain.remote().result(timeout_s=seconds)


def _join(address: str | None, jobs: bool) -> None:
    """`jobs`: whether Ray's job server, which comes with its dashboard, is needed."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers yield to every other program
    environment = {"env_vars": PROCESSES}
    try:
        if address is None:
            ray.init(
                address="local", num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1), include_dashboard=jobs,
                object_store_memory=OBJECT_STORE, _node_ip_address="127.0.0.1", runtime_env=environment,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
        else:
            ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # Ray raises bare ones, such as for a machine too busy to start on
        raise ClusterError(
            f"no Ray answers at {address or 'this machine'}: {str(error).splitlines()[0]}; check --address, "
            "or leave it out to run on this machine"
        ) from error


def _wait() -> None:
    """Until SIGINT or SIGTERM."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
