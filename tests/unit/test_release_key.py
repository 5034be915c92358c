"""The release key stays in its file: nothing that is sent to another process holds it."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from anonymousnet.config import Config
from anonymousnet.errors import ConfigError, PrivacyError
from anonymousnet.pipelines.bulk_plan import Job
from anonymousnet.pipelines.storage import Folder
from anonymousnet.privacy.randomness import load_key
from anonymousnet.privacy.release_key import ReleaseKey, mark_of


@pytest.fixture
def job(tmp_path: Path) -> Job:
    place = Folder(tmp_path)
    config = Config.load(None, [f"release.key_file={tmp_path}/key"])
    key = ReleaseKey.open(config.release.key_file)
    made = Job("id", "run", place, place, place, "photos", config, key, {}, "cpu-float32")
    assert len(made.key.value) == 32
    made.alias("used")
    return made


def _holds(data: bytes, key: bytes) -> bool:
    """Also as text, and in halves: a pickle may cut what it holds."""
    forms = [key, key[:16], key[16:], key.hex().encode(), repr(key).encode()]
    return any(form in data for form in forms)


def test_no_pickle_of_a_job_holds_the_key(job: Job) -> None:
    from anonymousnet.pipelines import bulk_publish, bulk_ray, bulk_work

    sent: list[Any] = [
        job, job.key, (job, {}), partial(bulk_ray.put, job=job, books=None),
        partial(bulk_work.read, job), bulk_ray.Listing(job, ()), partial(bulk_publish._publish, job),
        lambda: job.record(1), job.alias,
    ]  # fmt: skip
    for one in sent:
        assert not _holds(cloudpickle.dumps(one), job.key.value), one
    assert not _holds(pickle.dumps(job), job.key.value)
    assert not _holds(repr(job).encode(), job.key.value)
    assert _holds(pickle.dumps(job.key.value), job.key.value), "a leak would have been seen"


def test_a_worker_reads_it_from_its_own_file(job: Job) -> None:
    there = pickle.loads(cloudpickle.dumps(job))
    assert there.key.value == job.key.value
    assert there.alias("a") == job.alias("a")
    assert pickle.loads(pickle.dumps(there)).key.mark == mark_of(job.key.value)


def test_a_worker_without_the_file_says_so_and_makes_none(job: Job, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(job))
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match=f"expected the release key of mark {job.key.mark.hex()[:8]}.*found none"):
        _ = there.key.value
    assert not (tmp_path / "key").exists()


def test_a_worker_with_another_key_says_both_marks(job: Job, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(job))
    (tmp_path / "key").unlink()
    other = mark_of(load_key(tmp_path / "key")).hex()[:8]
    with pytest.raises(ConfigError, match=f"{job.key.mark.hex()[:8]}.*found another one of mark {other}"):
        _ = there.key.value


def test_a_worker_whose_file_is_open_to_others_refuses(job: Job, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(job))
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(PrivacyError, match="chmod 600"):
        _ = there.key.value
