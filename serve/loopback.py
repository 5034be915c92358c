"""Ray Serve's replicas on 127.0.0.1. Imports no Ray: it runs in workers before they import Serve."""

from __future__ import annotations


def stay_on_loopback() -> None:
    """Have the replicas of this process listen for each other on 127.0.0.1, where Serve's code says `[::]:0`.

    Ray calls this in every worker of a local session (`worker_process_setup_hook`).
    """
    from ray._common import tls_utils

    listen = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, where: listen(server, where.replace("[::]", "127.0.0.1"))
