"""Joining a Ray that is not there. (Sessions that run are tested with what runs in them.)"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from anonymousnet.errors import ClusterError, DataError
from anonymousnet.pipelines import session
from anonymousnet.pipelines.session import persistently, ray_session


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray answers at {address}: .*refused; check"), ray_session(address):
        raise AssertionError("there is no Ray to be in")
    assert time.monotonic() - started < 15


def test_a_job_whose_machines_are_lost_goes_on_while_it_gets_anywhere() -> None:
    from ray.exceptions import ActorUnavailableError, RaySystemError, StreamingGeneratorReplayInconsistentError

    lost = ActorUnavailableError("gone", None)
    fewer = StreamingGeneratorReplayInconsistentError("0 objects, expected 2")
    lives = [iter_then([1, 2], lost), iter_then([3], fewer), iter_then([4], None)]
    assert list(persistently(lambda: lives.pop(0), 3)) == [1, 2, 3, 4]
    in_vain = [iter_then([1], lost), iter_then([], lost), iter_then([9], None)]
    with pytest.raises(ClusterError, match="a worker died 4 times over the same photos"):
        list(persistently(lambda: in_vain.pop(0), 3))
    wrong = [iter_then([1], RaySystemError("no")), iter_then([9], None)]
    with pytest.raises(ClusterError, match="Ray gave up"):
        list(persistently(lambda: wrong.pop(0), 3))


def test_a_job_that_hangs_after_a_machine_was_lost_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"a", "b"}, {"a", "b"}, {"a", "b", "c"}, {"a", "c"}, {"a", "c"}, {"a"}, {"a"}]
    monkeypatch.setattr(session, "SILENT_S", 0.05)
    monkeypatch.setattr(session, "_machines", lambda: machines.pop(0))
    never, joined = threading.Event(), list[int]()

    def hung() -> Iterator[int]:
        yield 1
        never.wait(20)

    def hung_at_once() -> Iterator[int]:
        never.wait(20)
        yield 0

    lives = [hung(), hung_at_once(), iter_then([2, 3], None)]
    assert list(persistently(lambda: lives.pop(0), 3, lambda: joined.append(1))) == [1, 2, 3]
    assert (joined, machines) == ([1, 1], [])
    never.set()


def test_what_a_job_raises_comes_through_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_machines", set)
    wrong = iter_then([1], DataError("torn"))
    with pytest.raises(DataError, match="torn"):
        list(persistently(lambda: wrong, 3, lambda: None))


def iter_then(values: list[int], error: Exception | None) -> Iterator[int]:
    yield from values
    if error is not None:
        raise error
