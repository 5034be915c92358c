"""A run's OUT in S3: what is read back is whole, what is gone stays gone, what refuses says so in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.conftest import S3Server

from anonymousnet.errors import StorageError
from anonymousnet.pipelines.home import Home


def write(home: Home, name: str, text: str) -> None:
    path = home.local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_goes_on_from_the_newest_whole_checkpoint(s3: S3Server) -> None:
    s3.client.create_bucket(Bucket="runs")
    first = Home("s3://runs/a", s3.endpoint)
    assert names(first.open()) == set()
    write(first, "step-00000010.ckpt/net.safetensors", "ten")
    write(first, "step-00000010.ckpt/run.json", "{}")
    write(first, "losses.jsonl", "1\n")
    first.push()
    second = Home("s3://runs/a", s3.endpoint)
    assert names(second.open()) == {"step-00000010.ckpt/net.safetensors", "step-00000010.ckpt/run.json", "losses.jsonl"}
    # The newer checkpoint replaces the older one, and records grow.
    for name in ("net.safetensors", "run.json"):
        (second.local / "step-00000010.ckpt" / name).unlink()
        write(second, f"step-00000020.ckpt/{name}", "{}")
    write(second, "losses.jsonl", "1\n2\n")
    second.push()
    # A machine that died while it wrote left half a checkpoint.
    s3.client.put_object(Bucket="runs", Key="a/step-00000030.ckpt/net.safetensors", Body=b"half")
    third = Home("s3://runs/a", s3.endpoint)
    assert names(third.open()) == {"step-00000020.ckpt/net.safetensors", "step-00000020.ckpt/run.json", "losses.jsonl"}
    assert (third.local / "losses.jsonl").read_text() == "1\n2\n"


def test_a_place_that_refuses_is_told_in_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"cannot read s3://runs/a: .*credentials"):
        Home("s3://runs/a", s3.endpoint).open()


def test_a_folder_is_just_a_folder(tmp_path: Path) -> None:
    home = Home(str(tmp_path / "run"))
    assert home.open() == tmp_path / "run"
    home.push()
