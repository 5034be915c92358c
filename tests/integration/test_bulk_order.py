"""A segment that Ray reads again, after a machine was lost, has the same rows in the same places."""

from __future__ import annotations

from pathlib import Path

from anonymousnet.config import Config
from anonymousnet.pipelines.bulk_places import open_places
from anonymousnet.pipelines.bulk_plan import CHUNK, Job, survey
from anonymousnet.pipelines.bulk_ray import Listing
from anonymousnet.privacy.release_key import ReleaseKey

CHUNKS = 4


def numbers(listing: Listing) -> list[int]:
    """The chunks that a run of the reading tasks yields, in order."""
    blocks = [block for task in listing.get_read_tasks(1) for block in task()]
    return [number for block in blocks for number in block["number"].to_pylist()]


def test_what_is_done_meanwhile_stays_in_its_place_and_the_next_start_leaves_it_out(tmp_path: Path) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    for i in range(CHUNKS * CHUNK):
        (photos / f"{i:04}.jpg").write_bytes(b"a photo")
    source, target, audit = open_places(str(photos), str(tmp_path / "out"), str(tmp_path / "audit"), None)
    surveyed = survey(source)
    key = ReleaseKey.open(tmp_path / "key")
    job = Job("job", "run", source, target, audit, surveyed.layout, Config(), key, {}, "form")
    audit.create(job.record(1), b"{}\n")
    listing = Listing(job, surveyed.segments)
    assert numbers(listing) == [0, 2, 3]
    audit.create(job.record(0), b"{}\n")
    audit.create(job.record(2), b"{}\n")
    assert numbers(listing) == [0, 2, 3]
    assert numbers(Listing(job, surveyed.segments)) == [3]
    audit.create(job.record(3), b"{}\n")
    assert numbers(Listing(job, surveyed.segments)) == []
