"""The service on a Ray of its own on this machine, or on somebody's cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from anonymousnet.config import Config
from anonymousnet.errors import AnonymousNetError, ClusterError
from anonymousnet.local_ray import keep_private

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
    "RAY_SERVE_PROXY_USE_GRPC": "1",  # by value from the proxy on: 3 ms less a request
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),  # gRPC's own 4 MiB is less than a photo may have
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "anonymousnet.serve.front:middlewares",
}
"""Environment of the service's processes."""


class Service(NamedTuple):
    """A service that answers."""

    wait: Callable[[], None]
    """Returns at SIGINT or SIGTERM."""
    metrics: list[str]
    """Where Prometheus finds each machine's."""


def processes(config: Config) -> dict[str, str]:
    """Environment of the service's processes, with the settings that stand before everything."""
    from anonymousnet.serve.front import ENVIRONMENT, encode_settings

    return {**PROCESSES, ENVIRONMENT: encode_settings(config.serve)}


@contextmanager
def running(config: Config, address: str | None = None) -> Iterator[Service]:
    """The service, answering. Requests under way are finished at the end.

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
    if address is None:
        _check_free(settings.host, settings.port)
    _join(address, config)
    try:
        serve.start(http_options=HTTPOptions(
            host=settings.host, port=settings.port, request_timeout_s=settings.deadline_s + 5
        ))  # fmt: skip
        serve.run(graph(config), name=NAME, route_prefix="/", logging_config=LoggingConfig(encoding="JSON"))
        yield Service(_wait, [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                              for node in ray.nodes() if node["Alive"]])  # fmt: skip
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


def _check_free(host: str, port: int) -> None:
    """Raise ClusterError where nobody can listen at `host:port`: Serve would say so after half a minute."""
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port just left counts as taken
            listener.bind(where)
            listener.listen()
    except OSError as error:
        raise ClusterError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another serve.port or serve.host, or "
            "end what listens there"
        ) from error


def _free_port() -> int:
    """A TCP port of loopback that nobody listens at."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def _join(address: str | None, config: Config) -> None:
    environment = {"env_vars": processes(config)}
    try:
        if address is None:
            _start(environment, bool(config.serve.buckets))
        else:
            import ray

            ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except AnonymousNetError:
        raise
    except Exception as error:  # Ray raises bare ones, such as for a machine too busy to start on
        raise ClusterError(
            f"no Ray answers at {address or 'this machine'}: {str(error).splitlines()[0]}; check --address, "
            "or leave it out to run on this machine"
        ) from error


def _start(environment: dict[str, Any], jobs: bool) -> None:
    """A Ray that only this machine, and who has its token, reaches. `jobs`: whether Ray's job server, which comes with
    its dashboard, is needed."""
    folder = keep_private()
    import ray
    from ray._private import parameter, ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray reads the environment as it is imported, which may be long ago
    # An agent takes port 52365, or none: the job server of a second Ray on this machine would have no agent.
    parameter.RayParams = partial(parameter.RayParams, dashboard_agent_listen_port=0)  # type: ignore[misc,assignment]
    os.environ.setdefault("RAY_worker_niceness", "0")  # else its workers yield to every other program
    ray.init(
        address="local", num_cpus=max(LOGICAL_CPUS, os.cpu_count() or 1), include_dashboard=jobs,
        dashboard_host="127.0.0.1", dashboard_port=_free_port(), object_store_memory=OBJECT_STORE,
        _node_ip_address="127.0.0.1", _temp_dir=str(folder), logging_level=logging.ERROR, log_to_driver=False,
        runtime_env=environment | {"worker_process_setup_hook": "anonymousnet.serve.loopback.stay_on_loopback"},
    )  # fmt: skip


def _wait() -> None:
    """Until SIGINT or SIGTERM."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
