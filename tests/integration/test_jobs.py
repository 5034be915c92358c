"""Jobs of an evaluation in other processes: results in order, errors as they are, no worker without its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anonymousnet.errors import DataError
from anonymousnet.privacy import jobs

PARENT = """
import os, time
from anonymousnet.privacy.jobs import workers
if __name__ == "__main__":
    with workers("cpu", 1000) as run:
        print(*run([(os.getpid, ())] * 1, lambda items, _: items), flush=True)
        run([(time.sleep, (600,)), (time.sleep, (600,))], lambda items, _: items)
"""


def plain(items, total):
    return items


def refuse() -> None:
    raise DataError("expected more, got less")


def test_results_come_in_order_and_errors_as_they_are() -> None:
    with jobs.workers("cpu", jobs.WORTH_PROCESSES) as run:
        assert run([(pow, (2, i)) for i in range(5)], plain) == [1, 2, 4, 8, 16]
        with pytest.raises(DataError, match="expected more"):
            run([(refuse, ())], plain)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core has no workers")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(how)
    parent.wait(10)
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
