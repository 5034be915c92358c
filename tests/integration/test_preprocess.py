"""`anonymousnet preprocess`: every photo accounted for, killed and resumed, on disks and on a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tests.integration.conftest import READER, S3Server

from anonymousnet.align.warp import TEMPLATE_52
from anonymousnet.cluster.cli import main
from anonymousnet.data import shards as store
from anonymousnet.data.celeba import CelebA
from anonymousnet.errors import ConfigError, DataError, StorageError
from anonymousnet.nets.dan import five_from_68, mean_shape
from anonymousnet.pipelines import storage
from anonymousnet.pipelines.home import Home
from anonymousnet.pipelines.preprocess import LARGEST_SHARD, plan_shards, preprocess
from anonymousnet.pipelines.session import ray_session
from anonymousnet.pipelines.source import Labels, Source


@pytest.fixture(scope="module")
def _ray(s3: S3Server) -> Iterator[None]:
    """One Ray for this file, with the S3 server's keys in its environment."""
    with ray_session():
        yield


@pytest.fixture(autouse=True)
def _client_of_its_own() -> None:
    storage._client.cache_clear()


def run(*arguments: object) -> tuple[int, str]:
    """Exit status, and what was said."""
    done = CliRunner().invoke(main, ["preprocess", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output.strip()


def source_of(counts: tuple[int, int, int], size: int = 1000) -> Source:
    n = sum(counts)
    names = tuple(f"{i:06}.jpg" for i in range(n))
    labels = Labels(names, np.ones(n, np.bool_), None, np.full(n, -1, np.int64), None)
    parts = np.repeat(np.arange(3, dtype=np.int8), counts)
    return Source(storage.Folder(Path("photos")), "photos", "", labels, np.full(n, size), parts, "")


def test_shards_share_the_photos_in_order_and_proportion() -> None:
    plan = plan_shards(source_of((80, 15, 5)), 10)
    assert [shard.file.split("/")[0] for shard in plan] == ["train"] * 8 + ["validation"] * 2 + ["test"]
    assert [name for shard in plan for name in shard.labels.names] == [f"{i:06}.jpg" for i in range(100)]
    assert {len(shard.labels.names) for shard in plan} == {10, 8, 7, 5}
    assert len({shard.errors_file for shard in plan}) == len(plan)
    assert len(plan_shards(source_of((2, 0, 1)), 50)) == 3  # none is empty
    assert len(plan_shards(source_of((1600, 0, 1)), None)) == 5


def test_shards_too_large_for_memory_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 3 shards for 2050 MiB of photos, got 1; raise --shards"):
        plan_shards(source_of((2050, 0, 0), LARGEST_SHARD // 1024), 1)


def label_landmarks(folder: Path) -> None:
    """The teacher's table: the mean shape on three photos; it guessed on photo 2, and the detector sees 3 elsewhere."""
    shape = mean_shape()[None].expand(3, -1, -1) * 178 + torch.tensor([0, 20])
    five = five_from_68(shape).numpy() + np.float32([0, 0, 20])[:, None, None]
    names = np.array([f"img_align_celeba/{i:06}.jpg" for i in (1, 2, 3)])
    np.savez(
        folder / "landmarks_68.npz", name=names, landmarks_N682=shape.numpy(), points_N52=five,
        spread_N=np.float32([0.01, 0.2, 0.01]),
    )  # fmt: skip


@pytest.mark.usefixtures("_ray")
def test_celeba_is_accounted_for_and_labelled(small_celeba: Path, tmp_path: Path) -> None:
    images = small_celeba / "img_align_celeba"
    (images / "000004.jpg").write_bytes((images / "000004.jpg").read_bytes()[:2000])
    (images / "000099.jpg").write_bytes((images / "000001.jpg").read_bytes())
    label_landmarks(small_celeba)
    out = tmp_path / "out"
    status, said = run(small_celeba, out, "--shards", 4, "--px", 64, "--json")
    assert status == 0, said
    answer, card = json.loads(said.splitlines()[-1]), json.loads((out / "card.json").read_text())
    errors = [r for path in sorted(out.glob("errors/*.parquet")) for r in pq.read_table(path).to_pylist()]
    assert answer["photos"] == 13
    assert answer["faces"] + len(errors) == 13
    reasons = {error["name"]: (error["kind"], error["reason"]) for error in errors}
    assert reasons["000004.jpg"][0] == "TruncatedImage"
    assert reasons["000099.jpg"] == ("DataError", "no row in list_attr_celeba.txt; add one, or remove the photo")
    assert card["counts"]["errors"] == answer["errors"]
    assert card["content_sha256"] == answer["content_sha256"]
    assert "non-commercial" in (out / "README.md").read_text()
    celeba = CelebA.open(small_celeba)
    for split in ("train", "validation", "test"):
        part, shards = celeba.part(split), store.open_shards(out, split)
        rows = [row for i in range(len(shards.files)) for row in store.read_rows(shards, i, None).to_pylist()]
        assert {row["name"] for row in rows} == set(part.names) - set(reasons)
        for row in rows:
            i = part.names.index(row["name"])
            assert row["attributes"] == part.attributes[i].tolist()
            assert row["identity"] == part.identities[i]
            points = np.array(row["points"]).reshape(5, 2)
            assert np.abs(points - 64 * TEMPLATE_52).max() < 6, "the face is where the template has it"
    rows = {r["name"]: r for p in out.glob("train/*.parquet") for r in pq.read_table(p).to_pylist()}
    assert [name for name, row in rows.items() if row["landmarks"]] == ["000001.jpg"]
    placed = np.array(rows["000001.jpg"]["landmarks"]).reshape(68, 2)
    assert np.abs(placed - 64 * mean_shape().numpy()).max() < 8  # but for the face's own tilt


@pytest.mark.usefixtures("_ray")
def test_killed_with_9_it_goes_on_to_the_same_bytes(small_celeba: Path, tmp_path: Path) -> None:
    whole = preprocess(str(small_celeba), str(tmp_path / "whole"), 64, 12)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "anonymousnet.cluster.cli", "preprocess", small_celeba, out, "--px", "64"]
    process = subprocess.Popen([*command, "--shards", "12"], stderr=subprocess.DEVNULL)
    while len(list(out.glob("*/part-*.parquet"))) < 3 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    there = {path: path.stat().st_mtime_ns for path in out.glob("*/part-*.parquet") if path.parent.name != "errors"}
    again = preprocess(str(small_celeba), str(out), 64, 12)
    assert again.kept >= 3
    assert again.content_sha256 == whole.content_sha256
    assert (again.photos, again.faces, again.errors) == (whole.photos, whole.faces, whole.errors)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in there.items()), "finished shards were made again"


@pytest.mark.usefixtures("_ray")
def test_on_s3_as_on_disk_and_only_its_own_shards_are_kept(s3: S3Server, tmp_path: Path, page: np.ndarray) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "in").mkdir(parents=True)
    Image.fromarray(page).save(photos / "page.jpg", quality=92)
    Image.fromarray(page[:, ::-1].copy()).save(photos / "in" / "mirrored.png")
    (photos / "nobody.jpg").write_bytes(b"")
    (photos / ".hidden.jpg").write_bytes(b"")
    s3.client.create_bucket(Bucket="faces")
    for path in photos.rglob("*.*g"):
        s3.client.put_object(Bucket="faces", Key=f"in/{path.relative_to(photos)}", Body=path.read_bytes())
    local = preprocess(str(photos), str(out), 64, 2)
    assert (local.photos, local.faces, local.errors) == (3, 6, {"EmptyImage": 1})
    remote = preprocess("s3://faces/in", "s3://faces/out", 64, 2, endpoint_url=s3.endpoint)
    assert remote.content_sha256 == local.content_sha256
    filesystem, path = storage.filesystem_of("s3://faces/out", s3.endpoint)
    shards = store.open_shards(path, "train", filesystem)
    assert store.is_dataset(path, filesystem)
    assert shards.identities().tolist() == [-1] * 6
    again = preprocess("s3://faces/in", "s3://faces/out", 64, 2, endpoint_url=s3.endpoint)
    assert again.kept == again.shards == 2
    status, said = run(photos, out, "--px", 32, "--shards", 2)
    assert status == 2
    assert "choose another DST" in said
    shard = next(out.glob("train/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-500])
    with pytest.raises(DataError, match=f"{shard.name} is damaged.*delete it"):
        preprocess(str(photos), str(out), 64, 2)


@pytest.mark.usefixtures("_ray")
def test_a_worker_that_cannot_write_says_so(small_celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "validation").write_bytes(b"a file where a folder must be")
    status, said = run(small_celeba, tmp_path / "out", "--px", 64, "--shards", 3)
    assert status == 2
    assert f"error: cannot write {tmp_path}/out/validation/part-00000.parquet" in said


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CASES: dict[str, tuple[str, dict[str, str], str]] = {
    "wrong secret": ("settled", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses the credentials (SignatureDoesNotMatch)"),
    "unknown key": ("settled", {"AWS_ACCESS_KEY_ID": "nobody"}, "refuses the credentials (InvalidAccessKeyId)"),
    "no bucket": ("no-such-bucket", {}, "there is no bucket 'no-such-bucket'"),
    "may not write": ("settled", READER, "no permission (AccessDenied); ask the bucket's owner"),
    "unreachable": ("settled", {"": ""}, "check the network and --endpoint-url"),
}


@pytest.mark.parametrize("case", CASES)
def test_s3_refusals_are_one_line(
    case: str, s3: S3Server, small_celeba: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    bucket, environment, expected = CASES[case]
    endpoint = s3.endpoint if "" not in environment else f"http://127.0.0.1:{unused_port()}"
    for name, value in environment.items():
        if name:
            monkeypatch.setenv(name, value)
    status, said = run(small_celeba, f"s3://{bucket}/out", "--endpoint-url", endpoint)
    assert status == 2, said
    assert expected in said
    assert said.startswith("error: cannot")
    assert len(said.splitlines()) == 1


def test_a_place_of_other_files_and_an_empty_source_are_refused(tmp_path: Path, small_celeba: Path) -> None:
    (tmp_path / "README.md").write_text("my project")
    status, said = run(small_celeba, tmp_path)
    assert (status, "choose a folder of its own" in said) == (2, True)
    (tmp_path / "empty").mkdir()
    status, said = run(tmp_path / "empty", tmp_path / "out")
    assert (status, "no photos in" in said) == (2, True)
    status, said = run(tmp_path / "missing", tmp_path / "out")
    assert (status, "no such folder" in said) == (2, True)
    status, said = run("ftp://there/photos", tmp_path / "out")
    assert (status, "expected a folder or s3://bucket/prefix" in said) == (2, True)


def test_lists_that_are_missing_are_named(small_celeba: Path, tmp_path: Path) -> None:
    (small_celeba / "list_eval_partition.txt").unlink()
    status, said = run(small_celeba, tmp_path / "out")
    assert (status, "list_eval_partition.txt" in said) == (2, True)


def test_a_place_that_refuses_is_told_in_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"cannot list s3://runs/a/: .*credentials"):
        Home("s3://runs/a", s3.endpoint).open()


def test_a_run_in_s3_goes_on_from_another_machine(s3: S3Server) -> None:
    s3.client.create_bucket(Bucket="trained")
    here = Home("s3://trained/run", s3.endpoint)
    (here.open() / "losses.jsonl").write_text("1\n")
    for step in (10, 20):  # the checkpoint of step 10 goes when that of step 20 stands
        shutil.rmtree(here.local / "step-10.ckpt", ignore_errors=True)
        (here.local / f"step-{step}.ckpt").mkdir()
        (here.local / f"step-{step}.ckpt" / "net.safetensors").write_bytes(bytes(9))
        (here.local / f"step-{step}.ckpt" / "run.json").write_text("{}")
        here.push()
    (here.local / "step-30.ckpt").mkdir()
    (here.local / "step-30.ckpt" / "net.safetensors").write_bytes(bytes(9))
    here.push()  # killed before the checkpoint was whole
    there = Home("s3://trained/run", s3.endpoint).open()
    found = sorted(p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file())
    assert found == ["losses.jsonl", "step-20.ckpt/net.safetensors", "step-20.ckpt/run.json"]


def test_a_folder_is_just_a_folder(tmp_path: Path) -> None:
    home = Home(str(tmp_path / "run"))
    assert home.open() == tmp_path / "run"
    home.push()
