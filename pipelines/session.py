"""A Ray of our own on this machine, or somebody's cluster: the same code runs on both."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from anonymousnet.errors import ClusterError

LOGICAL_CPUS = 8
"""A local Ray is given at least this many: a pipeline's operators each hold one, and with fewer they wait for ever."""
OBJECT_STORE = 1 << 30
"""Bytes of shared memory that a local Ray may take."""


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
            ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray answers at {address or 'this machine'}: {str(error).splitlines()[0]}; check --address, "
            "or leave it out to run on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
