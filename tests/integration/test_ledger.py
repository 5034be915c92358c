"""The ledger: adds up, refuses, and loses nothing to kill -9."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonymousnet.errors import BudgetExceeded, LedgerError, PrivacyError
from anonymousnet.privacy import accounts
from anonymousnet.privacy import ledger as module
from anonymousnet.privacy.ledger import Ledger, Spend

KEY = bytes(range(32))
ONE = {"hair": 0.75, "smile": 0.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "ledger.sqlite"


def test_releases_add_up_and_replays_do_not(path):
    with Ledger(path, key=KEY) as ledger:
        assert ledger.spend(b"anna", b"photo 1", "may", ONE) == 1.25
        assert ledger.spend(b"anna", b"photo 1", "may", ONE) == 0
        assert ledger.spend(b"anna", b"photo 2", "may", ONE) == 1.25
        assert ledger.spend(b"anna", b"photo 1", "june", {"hair": 2.0}) == 2
        assert ledger.spend(b"berta", b"photo 1", "may", ONE) == 1.25
        assert ledger.spent(b"anna") == 4.5
        assert ledger.spent(b"nobody") == 0
        assert (ledger.total(), ledger.worst()) == (5.75, 4.5)
    with Ledger(path, key=KEY) as again:
        assert again.spent(b"anna") == 4.5
        assert again.spend(b"anna", b"photo 2", "may", ONE) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["ledger.sqlite"]


def test_one_entry_per_subject_release_and_group_and_nobody_named(path):
    with Ledger(path, key=KEY) as ledger:
        for photo in (b"DSC_0041", b"DSC_0042"):
            ledger.spend(b"anna.example", photo, "may", ONE)
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT release, attribute_group, epsilon FROM entries ORDER BY 2").fetchall()
    assert rows == [("may", "hair", 1.5), ("may", "smile", 1.0)]
    assert b"anna" not in path.read_bytes()
    assert b"DSC_" not in path.read_bytes()


def test_a_spend_over_the_budget_writes_nothing(path):
    with Ledger(path, budget=3, key=KEY) as ledger:
        ledger.spend(b"anna", b"1", "may", ONE)
        ledger.spend(b"anna", b"2", "may", ONE)
        with pytest.raises(BudgetExceeded, match=r"spent epsilon 2.5 of 3 and would spend 1.25 more.*at most 0.5"):
            ledger.spend(b"anna", b"3", "may", ONE)
        assert ledger.spend(b"anna", b"1", "may", ONE) == 0  # a replay is free
        assert ledger.spend(b"anna", b"3", "may", {"hair": 0.5}) == 0.5  # exactly the budget
        batch = [Spend(b"berta", b"1", "may", ONE), Spend(b"anna", b"4", "may", ONE)]
        with pytest.raises(BudgetExceeded, match="photo 2 of the batch"):
            ledger.spend_many(batch)
        assert ledger.spent(b"berta") == 0
        assert ledger.total() == 3


def test_a_batch_counts_its_own_photos(path):
    with Ledger(path, budget=2.5, key=KEY) as ledger:
        one, two, three = (Spend(b"anna", photo, "may", ONE) for photo in (b"1", b"2", b"3"))
        assert ledger.spend_many([one, two, one]) == [1.25, 1.25, 0]
        assert ledger.spend_many([]) == []
        with pytest.raises(BudgetExceeded):
            ledger.spend_many([one, three])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b"]),
            st.sampled_from([b"1", b"2", b"3"]),
            st.sampled_from(["may", "june"]),
        ),
        max_size=12,
    ),
    st.dictionaries(st.sampled_from(["x", "y", "z"]), st.floats(0, 5), min_size=1),
)
@settings(max_examples=25, deadline=None)
def test_composition_is_the_sum_over_different_releases(tmp_path_factory, spends, epsilons):
    with Ledger(tmp_path_factory.mktemp("ledger") / "l", key=KEY) as ledger:
        now = [ledger.spend(subject, photo, release, epsilons) for subject, photo, release in spends]
        expected = len(set(spends)) * sum(epsilons.values())
        assert sum(now) == pytest.approx(expected)
        assert ledger.total() == pytest.approx(expected)
        each = [sum(epsilons.values()) * len({s for s in spends if s[0] == who}) for who in (b"a", b"b")]
        assert [ledger.spent(b"a"), ledger.spent(b"b")] == pytest.approx(each)
        assert ledger.worst() == pytest.approx(max(each))


def test_what_cannot_be_accounted_for(path):
    with Ledger(path, key=KEY) as ledger:
        for epsilons in ({"hair": float("inf")}, {"hair": -1.0}, {"hair": float("nan")}, {}):
            with pytest.raises(PrivacyError, match="finite numbers of 0 and more"):
                ledger.spend(b"anna", b"1", "may", epsilons)
        ledger.spend(b"anna", b"1", "may", ONE)
        assert ledger.spend(b"anna", b"1", "may", {"hair": 0.75 + 1e-12, "smile": 0.5}) == 0
        for other in ({"hair": 0.8, "smile": 0.5}, {"hair": 0.75}):
            with pytest.raises(PrivacyError, match="set release.name to a new name"):
                ledger.spend(b"anna", b"1", "may", other)
        assert ledger.total() == 1.25
    with pytest.raises(PrivacyError, match="expected more than 0"):
        Ledger(path, budget=0, key=KEY)


def test_what_is_unprotected_costs_infinitely_much(path):
    bare = {"hair": 0.75, "unprotected": math.inf}
    with Ledger(path, budget=1e9, key=KEY, allow_unprotected=True) as ledger, pytest.raises(BudgetExceeded):
        ledger.spend(b"anna", b"1", "may", bare)
    with Ledger(path, key=KEY, allow_unprotected=True) as ledger:
        ledger.spend(b"berta", b"1", "may", ONE)
        assert ledger.spend(b"anna", b"1", "may", bare) == math.inf
        assert ledger.spend(b"anna", b"1", "may", bare) == 0
        assert ledger.spend(b"anna", b"2", "may", bare) == math.inf
        ledger.spend(b"anna", b"3", "may", ONE)
        assert (ledger.spent(b"anna"), ledger.spent(b"berta")) == (math.inf, 1.25)
        assert ledger.worst() == ledger.total() == math.inf
    with Ledger(path, budget=100, key=KEY) as again:
        with pytest.raises(BudgetExceeded, match="spent epsilon inf of 100"):
            again.spend(b"anna", b"4", "may", ONE)
        assert again.spend(b"berta", b"4", "may", ONE) == 1.25
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT max(epsilon) FROM entries WHERE attribute_group = 'unprotected'").fetchone()
    assert rows == (math.inf,)


def _sketch(seed: int, changed: float = 0.0) -> bytes:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (accounts.GRID**2, 4))
    values[:, 3] = 255
    values[:, :3] = values[:, :3] + changed * rng.standard_normal((accounts.GRID**2, 3))
    return values.clip(0, 255).astype(np.uint8).tobytes()


def test_near_duplicates_share_an_account(path):
    with Ledger(path, budget=3, key=KEY) as ledger:
        first, second, third = (
            Spend(b"copy %d" % i, b"copy %d" % i, "may", ONE, sketch=_sketch(1, i)) for i in range(3)
        )
        assert ledger.spend_many([first, second]) == [1.25, 1.25]
        with pytest.raises(BudgetExceeded, match="spent epsilon 2.5 of 3"):
            ledger.spend_many([third])
        other = Spend(b"other", b"other", "may", ONE, sketch=_sketch(2))
        elsewhere = third._replace(scope=b"another key's")
        assert ledger.spend_many([other, elsewhere]) == [1.25, 1.25]
        assert ledger.spend_many([first, second, other, elsewhere]) == [0, 0, 0, 0]
        assert ledger.spend_many([third._replace(epsilons={"hair": 0.5})]) == [0.5]
        assert (ledger.worst(), ledger.total()) == (3, 5.5)
    with Ledger(path, budget=3, key=KEY) as again:
        assert again.spend_many([second]) == [0]
        with pytest.raises(BudgetExceeded):
            again.spend_many([second._replace(release="june")])


def test_a_sketch_is_sealed(path):
    with Ledger(path, key=KEY) as ledger:
        ledger.spend_many([Spend(b"copy", b"copy", "may", ONE, sketch=_sketch(1))])
    data = path.read_bytes()
    assert _sketch(1)[:32] not in data
    assert not any(band in data for band in accounts.bands(_sketch(1)))


def test_another_key_cannot_forget_what_was_spent(path):
    Ledger(path, key=KEY).close()
    with pytest.raises(LedgerError, match="another key"):
        Ledger(path, key=bytes(32))


def test_a_newer_or_foreign_file(path, tmp_path):
    Ledger(path, key=KEY).close()
    for version, message in ((3, "expected version 2, got 3.*upgrade"), (1, "start a new ledger")):
        with sqlite3.connect(path) as database:
            database.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(LedgerError, match=message):
            Ledger(path, key=KEY)
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE x (y)")
    with pytest.raises(LedgerError, match="another program's"):
        Ledger(tmp_path / "other", key=KEY)


def _filled(path: Path) -> None:
    with Ledger(path, key=KEY) as ledger:
        ledger.spend_many([Spend(b"%d" % i, b"photo", "may", ONE) for i in range(500)])


@pytest.mark.parametrize("keep", [0, 50, 0.5, 0.95])
def test_a_truncated_file(path, keep):
    _filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(LedgerError, match="damaged.*restore it from a backup"):
        Ledger(path, key=KEY)


@pytest.mark.parametrize("start", [0, 100, 4096 * 3 + 8])
def test_a_corrupt_file(path, start):
    _filled(path)
    damaged = bytearray(path.read_bytes())
    damaged[start : start + 200] = b"\xa5" * 200
    path.write_bytes(damaged)
    with pytest.raises(LedgerError, match="restore it from a backup|another program's"):
        Ledger(path, key=KEY)


def test_a_path_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(LedgerError, match="give a path"):
        Ledger(tmp_path / "file" / "ledger", key=KEY)
    with pytest.raises(LedgerError, match="check the disk's space and the permissions"):
        Ledger(tmp_path, key=KEY)


def test_a_locked_file(path, monkeypatch):
    Ledger(path, key=KEY).close()
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Ledger(path, key=KEY) as ledger:
        with pytest.raises(LedgerError, match="another process has held it"):
            ledger.spend(b"anna", b"1", "may", ONE)
        holder.execute("ROLLBACK")
        assert ledger.spend(b"anna", b"1", "may", ONE) == 1.25
    holder.close()


def test_many_threads_share_one(path):
    with Ledger(path, budget=100, key=KEY) as ledger, ThreadPoolExecutor(8) as pool:
        spent = list(pool.map(lambda i: ledger.spend(b"anna", b"%d" % (i % 50), "may", ONE), range(200)))
        assert sum(spent) == 50 * 1.25 == ledger.total()


WORKER = """
import os, sys
from pathlib import Path
from anonymousnet.privacy.ledger import Ledger
folder, worker = Path(sys.argv[1]), int(sys.argv[2])
released = os.open(folder / f"released-{worker}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with Ledger(folder / "ledger", key=bytes(range(32))) as ledger:
    for i in range(250):
        ledger.spend(b"subject %d" % (i % 10), b"%d of %d" % (i, worker), "may", {"hair": 0.75, "smile": 0.5})
        os.write(released, b"%d\\n" % i)
"""


def test_8_processes_2000_releases_3_killed(tmp_path):
    """What was released is in the ledger, always; then the killed ones run again and replays spend nothing."""

    def start(worker: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(worker)])

    def released(worker: int) -> list[int]:
        file = tmp_path / f"released-{worker}"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    workers = [start(i) for i in range(8)]
    try:
        alive, deadline = {0, 1, 2}, time.monotonic() + 120
        while alive and time.monotonic() < deadline:
            for i in [i for i in alive if len(released(i)) >= 20 * (i + 1)]:  # each somewhere in its middle
                workers[i].send_signal(signal.SIGKILL)
                alive.remove(i)
            time.sleep(0.002)
        codes = [worker.wait(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [-signal.SIGKILL] * 3 + [0] * 5
    counts = [len(released(i)) for i in range(8)]
    assert all(0 < count < 250 for count in counts[:3])
    assert counts[3:] == [250] * 5
    with Ledger(tmp_path / "ledger", key=KEY) as ledger:
        assert sum(counts) * 1.25 <= ledger.total() <= (sum(counts) + 3) * 1.25
        for worker in range(3):
            for i in released(worker):
                assert ledger.spend(b"subject %d" % (i % 10), b"%d of %d" % (i, worker), "may", ONE) == 0
    assert [start(i).wait(timeout=120) for i in range(3)] == [0] * 3
    with Ledger(tmp_path / "ledger", key=KEY) as ledger:
        assert ledger.total() == 2000 * 1.25
        assert ledger.worst() == 200 * 1.25
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
