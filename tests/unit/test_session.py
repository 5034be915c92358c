"""Joining a Ray that is not there. (Sessions that run are tested with what runs in them.)"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from anonymousnet.errors import ClusterError
from anonymousnet.pipelines.session import persistently, ray_session


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray answers at {address}: .*refused; check"), ray_session(address):
        raise AssertionError("there is no Ray to be in")
    assert time.monotonic() - started < 15


def test_a_job_whose_machines_are_lost_goes_on_while_it_gets_anywhere() -> None:
    from ray.exceptions import ActorUnavailableError, RaySystemError

    lost = ActorUnavailableError("gone", None)
    lives = [iter_then([1, 2], lost), iter_then([3], lost), iter_then([4], None)]
    assert list(persistently(lambda: lives.pop(0), 3)) == [1, 2, 3, 4]
    in_vain = [iter_then([1], lost), iter_then([], lost), iter_then([9], None)]
    with pytest.raises(ClusterError, match="a worker died 4 times over the same photos"):
        list(persistently(lambda: in_vain.pop(0), 3))
    wrong = [iter_then([1], RaySystemError("no")), iter_then([9], None)]
    with pytest.raises(ClusterError, match="Ray gave up"):
        list(persistently(lambda: wrong.pop(0), 3))


def iter_then(values: list[int], error: Exception | None) -> Iterator[int]:
    yield from values
    if error is not None:
        raise error
