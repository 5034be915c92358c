"""Joining a Ray that is not there. (Sessions that run are tested with what runs in them.)"""

from __future__ import annotations

import time

import pytest

from anonymousnet.errors import ClusterError
from anonymousnet.pipelines.session import ray_session


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray answers at {address}: .*refused; check"), ray_session(address):
        raise AssertionError("there is no Ray to be in")
    assert time.monotonic() - started < 15
