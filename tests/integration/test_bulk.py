"""`anonymousnet anonymize` from bucket to bucket: exactly once, signed, nothing private beside the release."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from tests.integration.conftest import READER, S3Server

from anonymousnet.cluster.cli import main
from anonymousnet.data.celeba import read_attributes, read_pairs
from anonymousnet.pipelines import jobs, storage
from anonymousnet.pipelines.bulk_plan import CHUNK
from anonymousnet.pipelines.manifest import opened
from anonymousnet.pipelines.session import ray_session

GOOD = 3 * CHUNK + 4
NAMES = ["anna smith.jpg", "łódź/фото ü.png", "deep/er/anna smith.jpeg", "clear.png"]


@pytest.fixture(scope="module")
def _ray(s3: S3Server) -> Iterator[None]:
    """One Ray for this file, with the S3 server's keys in its environment."""
    with ray_session():
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of its own for each test; a dead driver's hold lapses soon."""
    storage._client.cache_clear()
    monkeypatch.setattr(jobs, "TTL", 4.0)
    monkeypatch.setattr(jobs, "BEAT", 0.5)


def run(*words: object) -> tuple[int, str]:
    """Exit status, and what was said."""
    done = CliRunner().invoke(main, [*map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output.strip()


def sets(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def jpeg(pixels: np.ndarray, **how: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, **{"format": "JPEG", "quality": 92, **how})
    return out.getvalue()


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A small photo with a face."""
    from anonymousnet.data.synthetic import render_page

    return render_page(3, faces=1, width=240)[0]


@pytest.fixture(scope="module")
def photos(face: np.ndarray) -> dict[str, bytes]:
    """Names and bytes: good ones, odd names, and one of each kind of bad luck."""
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "anna smith at home", "photographer bob"
    found = {f"p{i:04}.jpg": jpeg(np.roll(face, i, 1), exif=exif) for i in range(GOOD)}
    for i, name in enumerate(NAMES):
        suffix = name.rsplit(".", 1)[1].replace("jpg", "jpeg")
        found[name] = jpeg(np.roll(face, 2 * i + 2, 0), format=suffix.upper())
    whole = found["p0000.jpg"]
    found |= {"broken/cut.jpg": whole[: len(whole) // 2], "broken/empty.jpg": b"", "broken/text.jpg": b"no picture"}
    found["broken/wall.jpg"] = jpeg(np.full((90, 120, 3), 180, np.uint8))
    found["broken/huge.png"] = jpeg(np.zeros((9000, 9000), np.uint8), format="PNG")
    found["readme.txt"] = b"no photo"
    return found


def fill(s3: S3Server, bucket: str, objects: dict[str, bytes], prefix: str = "in/") -> None:
    s3.client.create_bucket(Bucket=bucket)
    for name, data in objects.items():
        s3.client.put_object(Bucket=bucket, Key=prefix + name, Body=data)


def listed(s3: S3Server, bucket: str, prefix: str) -> dict[str, bytes]:
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key[len(prefix) :]: s3.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


@dataclass(frozen=True)
class Done:
    summary: dict[str, Any]
    release: dict[str, bytes]
    audit: dict[str, bytes]
    settings: list[str]


@pytest.fixture(scope="module")
def done(_ray: None, s3: S3Server, photos: dict[str, bytes], small_weights: list[str], tmp_path_factory: Any) -> Done:
    """The undisturbed job."""
    fill(s3, "bulk", photos)
    settings = [*small_weights, "bulk.names=hashed", f"release.ledger={tmp_path_factory.mktemp('books')}/ledger"]
    status, said = anonymize(s3, "out", settings)
    assert status == 0, said
    return Done(
        json.loads(said.splitlines()[-1]), listed(s3, "bulk", "out/"), listed(s3, "bulk", "out-audit/"), settings
    )


def anonymize(s3: S3Server, out: str, settings: list[str], *more: object, source: str = "in") -> tuple[int, str]:
    return run("anonymize", f"s3://bulk/{source}", f"s3://bulk/{out}", "--audit", f"s3://bulk/{out}-audit",
               "--endpoint-url", s3.endpoint, "--json", *more, *sets(settings))  # fmt: skip


def spent(settings: list[str]) -> int:
    """Entries in the ledger."""
    path = next(s.split("=", 1)[1] for s in settings if s.startswith("release.ledger="))
    with sqlite3.connect(path) as ledger:
        return int(ledger.execute("SELECT count(*) FROM spends").fetchone()[0])


def records(audit: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for name in sorted(audit) if "/records/" in name for line in audit[name].splitlines()]


def test_every_key_is_accounted_for(done: Done, photos: dict[str, bytes]) -> None:
    summary = done.summary
    assert summary["photos"] == len(photos) - 1
    assert summary["released"] == GOOD + len(NAMES) == len([n for n in done.release if n.startswith("photos/")])
    assert (summary["quarantined"], summary["skipped"]) == (5, 1)
    assert {line["source"] for line in records(done.audit)} == set(photos) - {"readme.txt"}


def test_bad_photos_are_withheld_and_the_reasons_are_private(done: Done) -> None:
    lines = [json.loads(x) for n, d in done.audit.items() if "quarantine" in n for x in d.splitlines()]
    assert {line["source"]: line["kind"] for line in lines} == {
        "broken/cut.jpg": "TruncatedImage", "broken/empty.jpg": "EmptyImage", "broken/text.jpg": "UnreadableImage",
        "broken/wall.jpg": "NoFaceFound", "broken/huge.png": "ImageTooLarge",
    }  # fmt: skip
    assert done.summary["reasons"]["NoFaceFound"] == 1


def test_the_release_holds_no_name_no_metadata_and_nothing_private(done: Done, photos: dict[str, bytes]) -> None:
    words = [b"anna", b"smith", b"Exif", b"photographer", b"probabilit", b"similarity", b"changed", b"TruncatedImage",
             b"p0000", "łódź".encode(), b"bulk/in", b"-audit"]  # fmt: skip
    for name, data in done.release.items():
        assert not any(word in data for word in words), name
        assert not any(word.decode() in name for word in words)
    for name, data in done.release.items():
        if name.startswith("photos/"):
            with Image.open(io.BytesIO(data)) as image:
                assert not dict(image.getexif())
                assert not {"comment", "xmp", "icc_profile"} & set(image.info)
    assert {hashlib.sha256(d).hexdigest() for d in done.release.values()}.isdisjoint(
        hashlib.sha256(d).hexdigest() for d in photos.values()
    )


def test_no_source_pixel_is_left_in_a_face(done: Done, photos: dict[str, bytes], small_weights: list[str]) -> None:
    from anonymousnet import Anonymizer
    from anonymousnet.config import Config

    anonymizer = Anonymizer.load(Config.load(None, small_weights))
    of = {line["source"]: line["object"] for line in records(done.audit)}
    for name in ("clear.png", "p0001.jpg"):
        prepared = anonymizer.prepare(photos[name])
        with Image.open(io.BytesIO(done.release[of[name]])) as image:
            released = np.array(image.convert("RGB")).astype(int)
        change = np.abs(released - prepared.image.rgb).max(2)
        assert (change[prepared.hidden_HW] > 0).mean() > 0.95
        # Outside the mask and its feather only the JPEG's own noise is new.
        assert np.median(change[~prepared.hidden_HW]) <= (0 if name.endswith("png") else 3)


def test_content_types_and_private_evidence(done: Done, s3: S3Server) -> None:
    for name in done.release:
        kind = s3.client.head_object(Bucket="bulk", Key=f"out/{name}")["ContentType"]
        if name.startswith("photos/"):
            assert kind == ("image/png" if name.endswith("png") else "image/jpeg")
    evidence = [e for line in records(done.audit) for e in line["private"]]
    assert len(evidence) == done.summary["faces"]
    assert len(evidence[0]["probabilities"]) == 40


def test_the_manifest_says_what_was_released(done: Done) -> None:
    statement, signer = opened(done.release["manifest.json"])
    assert signer == done.summary["signer"]
    assert statement["counts"]["released"] == done.summary["released"]
    assert statement["privacy"]["epsilon_per_face"] == pytest.approx(10, abs=1e-3)
    assert statement["privacy"]["max_epsilon_per_photo"] >= statement["privacy"]["mean_epsilon_per_photo"] >= 10 - 1e-3
    rows = [
        r for n in statement["files"] if "part-" in n for r in pq.read_table(io.BytesIO(done.release[n])).to_pylist()
    ]
    assert {r["object"]: r["sha256"] for r in rows} == {
        n: hashlib.sha256(d).hexdigest() for n, d in done.release.items() if n.startswith("photos/")
    }
    assert sum(len(r["faces"]) for r in rows) == done.summary["faces"] == spent(done.settings)


def test_done_again_it_does_nothing(done: Done, s3: S3Server) -> None:
    status, said = anonymize(s3, "out", done.settings)
    again = json.loads(said.splitlines()[-1])
    assert status == 0
    assert again["kept"] == done.summary["photos"]
    assert listed(s3, "bulk", "out/") == done.release
    assert spent(done.settings) == done.summary["faces"]


def test_killed_with_9_it_goes_on_to_the_same_bytes(done: Done, s3: S3Server, tmp_path: Path) -> None:
    settings = [*[s for s in done.settings if "ledger" not in s], f"release.ledger={tmp_path}/ledger"]
    command = [sys.executable, "-m", "anonymousnet.cluster.cli", "anonymize", "s3://bulk/in", "s3://bulk/killed",
               "--audit", "s3://bulk/killed-audit", "--endpoint-url", s3.endpoint, *sets(settings)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pages = s3.client.get_paginator("list_objects_v2")

    def finished() -> dict[str, Any]:
        found = pages.paginate(Bucket="bulk", Prefix="killed-audit/")
        return {e["Key"]: e["LastModified"] for p in found for e in p.get("Contents", []) if "/records/" in e["Key"]}

    while not finished() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    time.sleep(1)  # its workers need a moment to notice
    before = finished()
    assert 1 <= len(before) <= 6
    status, said = anonymize(s3, "killed", settings)
    assert status == 0, said
    assert json.loads(said.splitlines()[-1])["kept"] >= CHUNK // 2
    assert listed(s3, "bulk", "killed/") == done.release
    assert spent(settings) == done.summary["faces"], "spent once per photo"
    after = finished()
    assert all(after[key] == when for key, when in before.items()), "finished chunks were done again"


def test_another_configuration_is_another_job(done: Done, s3: S3Server) -> None:
    status, said = anonymize(s3, "out", [*done.settings, "obfuscate.epsilon=3"])
    assert status == 2
    assert "belongs to job" in said
    assert "choose another DST" in said
    assert listed(s3, "bulk", "out/") == done.release


def test_a_living_driver_is_left_alone_and_a_dead_one_replaced(done: Done, s3: S3Server) -> None:
    audit = storage.storage_of("s3://bulk/out-audit", s3.endpoint)
    with jobs.held(audit, done.summary["run"]):
        status, said = anonymize(s3, "out", done.settings)
        assert (status, "is being done by another driver" in said) == (2, True), said
        assert len(said.splitlines()) == 1
        status, said = run("jobs", "list", "s3://bulk/out-audit", "--endpoint-url", s3.endpoint)
        assert "running" in said
    dead = jobs.Hold(audit, done.summary["run"])
    dead.take()  # and never a sign of life again
    assert anonymize(s3, "out", done.settings)[0] == 0
    status, said = run(
        "jobs", "show", "s3://bulk/out-audit", done.summary["job"][:8], "--endpoint-url", s3.endpoint, "--json"
    )
    assert json.loads(said)["state"] == "finished"


def test_verify_names_what_was_changed_removed_and_added(done: Done, s3: S3Server) -> None:
    fill(s3, "checked", done.release, "r/")
    command = ["verify", "s3://checked/r", "--endpoint-url", s3.endpoint, "--json"]
    status, said = run(*command, "--signer", done.summary["signer"])
    answer = json.loads(said)
    assert (status, answer["whole"], answer["photos"]) == (0, True, done.summary["released"])
    changed, removed = [n for n in sorted(done.release) if n.startswith("photos/")][:2]
    data = bytearray(done.release[changed])
    data[len(data) // 2] ^= 1
    s3.client.put_object(Bucket="checked", Key=f"r/{changed}", Body=bytes(data))
    s3.client.delete_object(Bucket="checked", Key=f"r/{removed}")
    s3.client.put_object(Bucket="checked", Key="r/photos/added.jpg", Body=b"x")
    status, said = run(*command)
    answer = json.loads(said)
    assert status == 1
    assert (answer["changed"], answer["missing"], answer["extra"]) == ([changed], [removed], ["photos/added.jpg"])
    assert run(*command, "--signer", "00" * 32)[0] == 1
    forged = done.release["manifest.json"].replace(b'"released": ', b'"released": 1')
    s3.client.put_object(Bucket="checked", Key="r/manifest.json", Body=forged)
    status, said = run(*command)
    assert (status, "its signature is wrong" in said) == (2, True)
    assert run("verify", "s3://checked/nothing", "--endpoint-url", s3.endpoint)[0] == 2


CASES: dict[str, tuple[list[str], dict[str, str], str]] = {
    "wrong secret": (["s3://bulk/in", "s3://bulk/x"], {"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses the credentials"),
    "no bucket": (["s3://no-such-bucket/in", "s3://bulk/x"], {}, "there is no bucket 'no-such-bucket'"),
    "may not write": (["s3://bulk/in", "s3://bulk/x"], READER, "no permission (AccessDenied)"),
    "one and the same": (["s3://bulk/in", "s3://bulk/in"], {}, "overlap"),
    "one within the other": (["s3://bulk", "s3://bulk/x"], {}, "overlap"),
    "no photos": (["s3://bulk/nothing", "s3://bulk/x"], {}, "no photos in s3://bulk/nothing/"),
    "used": (["s3://bulk/in", "s3://bulk/out-audit"], {}, "holds other objects"),
}


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_told_in_one_line(
    case: str, s3: S3Server, small_weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    places, environment, expected = CASES[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, said = run(
        "anonymize", *places, "--audit", "s3://bulk/a", "--endpoint-url", s3.endpoint, *sets(small_weights)
    )
    assert (status, expected in said) == (2, True), said
    assert len(said.splitlines()) == 1
    assert "another-secret" not in said


def test_a_bucket_needs_an_audit_place_apart(s3: S3Server, small_weights: list[str]) -> None:
    status, said = run("anonymize", "s3://bulk/in", "s3://bulk/x", "--endpoint-url", s3.endpoint)
    assert (status, "give --audit" in said) == (2, True)
    status, said = run("anonymize", "s3://bulk/in", "s3://bulk/x", "--audit", "s3://bulk/x/private")
    assert (status, "overlap" in said) == (2, True)
    mistyped = ["--audit", "s3://no-such-bucket/a", "--endpoint-url", s3.endpoint]
    status, said = run("anonymize", "s3://bulk/in", "s3://bulk/x", *mistyped)
    assert (status, "there is no bucket 'no-such-bucket'" in said) == (2, True)
    assert "no-such-bucket" not in {bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]}


def shard(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("members", ["drop", "copy"])
def test_archives(members: str, tmp_path: Path, face: np.ndarray, small_weights: list[str]) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    good, wall = jpeg(face), jpeg(np.full((90, 120, 3), 180, np.uint8))
    (source / "s.tar").write_bytes(shard({
        "anna.jpg": good, "anna.seg.png": wall, "anna.txt": b"hello", "anna.npy": b"\0", "w.jpg": wall,
        "w.txt": b"wall",
    }))  # fmt: skip
    (source / "bad.tar").write_bytes(b"no tar")
    table = pa.table({"image": [good, wall, b""], "caption": ["one", "two", "three"], "attributes": [1, 2, 3]})
    pq.write_table(table, source / "t.parquet")
    policy = [f"bulk.members={members}", "bulk.names=hashed"]
    status, said = run("anonymize", source, out, "--json", *sets([*small_weights, *policy]))
    assert status == 0, said
    summary = json.loads(said.splitlines()[-1])
    assert (summary["photos"], summary["released"], summary["quarantined"]) == (6, 2, 4)
    # The mask and the array; without `copy` the text and two columns, with it the column of old attributes.
    assert summary["left_out"] == {"drop": 5, "copy": 3}[members]
    assert opened((out / "manifest.json").read_bytes())[0]["counts"]["left_out"] == summary["left_out"]
    tar, parquet = next(out.glob("shards/*.tar")), next(out.glob("shards/*.parquet"))
    with tarfile.open(tar) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    assert sorted(n.split(".", 1)[1] for n in found) == ["jpg", "jpg.json", *(["txt"] if members == "copy" else [])]
    assert len({n.split(".")[0] for n in found}) == 1
    assert b"anna" not in tar.read_bytes()
    assert b"wall" not in tar.read_bytes()
    assert len(json.loads(next(d for n, d in found.items() if n.endswith("json")))["faces"][0]["attributes"]) == 40
    rows = pq.read_table(parquet)
    assert len(rows) == 1
    assert set(rows.column_names) == {"image", "name", "faces", *(["caption"] if members == "copy" else [])}
    assert rows["image"][0].as_py() != good
    assert run("verify", out, "--any-signer")[0] == 0
    private = [tmp_path / "out-private", *(tmp_path / "out-private").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o700, 0o600}


@pytest.mark.usefixtures("_ray")
def test_celebas_layout_stays_celebas_layout(small_celeba: Path, tmp_path: Path, small_weights: list[str]) -> None:
    out = tmp_path / "out"
    status, said = run("anonymize", small_celeba, out, "--json", *sets(small_weights))
    assert status == 0, said
    summary = json.loads(said.splitlines()[-1])
    names, table = read_attributes(out / "list_attr_celeba.txt")
    assert set(names) == {p.name for p in (out / "img_align_celeba").iterdir()}
    assert len(table) == summary["released"] >= 10
    partition = read_pairs(out / "list_eval_partition.txt")
    original = read_pairs(small_celeba / "list_eval_partition.txt")
    assert {n: partition[n] for n in names} == {n: original[n] for n in names}
    assert not (out / "identity_CelebA.txt").exists()
    points = (out / "list_landmarks_align_celeba.txt").read_text().splitlines()
    assert len(points) == len(names) + 2
    left_eye = np.array([line.split()[1:3] for line in points[2:]], float)
    assert np.abs(np.median(left_eye, 0) - (69.5, 111.5)).max() < 8
    assert run("verify", out, "--any-signer")[0] == 0


@pytest.mark.usefixtures("_ray")
def test_a_folder_goes_the_same_way_when_asked_and_may_copy_what_has_no_face(
    tmp_path: Path, face: np.ndarray, small_weights: list[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.jpg").write_bytes(jpeg(face))
    (source / "wall.jpg").write_bytes(jpeg(np.full((90, 120, 3), 180, np.uint8), comment=b"secret words"))
    settings = sets([*small_weights, "bulk.faceless=copy"])
    status, said = run("anonymize", source, out, "--workers", 1, "--json", *settings)
    assert (status, json.loads(said.splitlines()[-1])["released"]) == (0, 2), said
    assert b"secret words" not in (out / "wall.jpg").read_bytes()
    rows = {row["object"]: row for row in pq.read_table(out / "manifest" / "part-00000.parquet").to_pylist()}
    assert (rows["wall.jpg"]["faces"], rows["wall.jpg"]["epsilon"]) == ([], 0)
    assert (rows["wall.jpg"]["photo_epsilon"], rows["wall.jpg"]["account"]) == (0, "")
    for row in rows.values():
        assert row["photo_epsilon"] == pytest.approx(len(row["faces"]) * row["epsilon"])
    run("anonymize", source, tmp_path / "plain", *sets(small_weights))
    assert (tmp_path / "plain" / "a.jpg").read_bytes() == (out / "a.jpg").read_bytes()


@pytest.mark.usefixtures("_ray")
def test_other_bytes_in_the_way_end_the_job_in_one_line(
    tmp_path: Path, face: np.ndarray, small_weights: list[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.jpg").write_bytes(jpeg(face))
    command = ["anonymize", source, out, "--workers", 1, *sets(small_weights)]
    assert run(*command)[0] == 0
    released = out / "a.jpg"
    released.write_bytes(b"somebody else's")
    for record in tmp_path.glob("out-private/*/records/*"):
        record.unlink()
    status, said = run(*command)
    assert (status, "holds other bytes than this job makes" in said) == (2, True), said
    assert len(said.splitlines()) == 1
    released.unlink()
    assert run(*command)[0] == 0
