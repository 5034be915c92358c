"""The doctor: one line per part, a remedy wherever something is missing, never a secret."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from anonymousnet import doctor
from anonymousnet.config import Config
from anonymousnet.doctor import Check, checks

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", *doctor.AWS_ROLES)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, no CelebA, no network, and a home of its own."""
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANONYMOUSNET_CELEBA", str(tmp_path / "celeba"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def refuse(*_: object) -> None:
        raise AssertionError("the doctor asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def found(*overrides: str) -> dict[str, Check]:
    return {check.name: check for check in checks(Config.load(None, list(overrides)))}


def test_every_part_has_one_line() -> None:
    answer = list(checks(Config()))
    names = [check.name for check in answer]
    assert len(names) == len(set(names))
    wanted = {
        "python", "torch", "cpu bf16", "gpu", *doctor.PACKAGES, "detector", "population", "key file",
        *doctor.OPTIONAL, "s3 credentials", "disk", "celeba",
    }  # fmt: skip
    assert wanted <= set(names)
    for check in answer:
        assert check.status in ("ok", "warn", "fail")
        assert check.found
        assert "\n" not in check.found + check.remedy
        assert check.status == "ok" or check.remedy, check


def test_examining_changes_nothing(tmp_path: Path) -> None:
    list(checks(Config()))
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_fail_with_a_remedy() -> None:
    check = found("predict.weights=/nowhere/mine")["weights mine"]
    assert check.status == "fail"
    assert "no weights '/nowhere/mine'" in check.found
    assert "anonymousnet train attributes" in check.remedy


def test_altered_weights_fail(tmp_path: Path) -> None:
    import torch

    from anonymousnet import weights

    weights.write(tmp_path / "own", "classifier", {}, {"a": torch.zeros(3)}, {})
    name = str(tmp_path / "own")
    assert found(f"predict.weights={name}")["weights own"].status == "ok"
    file = tmp_path / "own" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    check = found(f"predict.weights={name}")["weights own"]
    assert check.status == "fail"
    assert "was altered" in check.found
    assert check.remedy


def test_key_file_open_to_others_fails(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"K" * 32)
    key.chmod(0o644)
    check = found(f"release.key_file={key}")["key file"]
    assert check.status == "fail"
    assert "0644" in check.found
    assert f"chmod 600 {key}" in check.remedy
    key.chmod(0o600)
    check = found(f"release.key_file={key}")["key file"]
    assert check.status == "ok"
    assert "K" * 8 not in check.found


def test_missing_key_file_is_not_made(tmp_path: Path) -> None:
    check = found(f"release.key_file={tmp_path / 'new'}")["key file"]
    assert check.status == "ok"
    assert not (tmp_path / "new").exists()


def test_population_that_does_not_read_fails(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    check = found(f"obfuscate.population={tmp_path / 'p.json'}")["population"]
    assert check.status == "fail"
    assert check.remedy


def test_gpu_asked_for_and_absent_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert found("device=cuda")["gpu"].status == "fail"
    assert found()["gpu"].status == "ok"


def test_missing_package_fails_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", "pip install no-such-package")
    check = found()["no-such-package"]
    assert (check.status, check.remedy) == ("fail", "pip install no-such-package")


def test_a_broken_part_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise OSError("libtorch.so:\n cannot open")

    monkeypatch.setattr("anonymousnet.device.cpu_has_bf16", broken)
    answer = list(checks(Config()))
    assert Check("torch", "fail", "OSError: libtorch.so: cannot open", "pip install -e . (again)") in answer
    assert answer[-1].name == "celeba"


def test_s3_credentials_are_found_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert found()["s3 credentials"].status == "warn"
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = AKIAX\naws_secret_access_key = se%cret\n")
    check = found()["s3 credentials"]
    assert check.status == "ok"
    assert "se%cret" not in repr(check)
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert found()["s3 credentials"].status == "warn"
    file.write_text("se%cret without a section")
    assert "se%cret" not in repr(found()["s3 credentials"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAX")
    assert "alone" in found()["s3 credentials"].found
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    check = found()["s3 credentials"]
    assert check == Check("s3 credentials", "ok", "in the environment")


def test_little_disk_space_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_WANTED", 1 << 60)
    assert found()["disk"].status == "warn"


def test_celeba_folder_and_zips(tmp_path: Path) -> None:
    assert "synthetic" in found()["celeba"].found
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "img_align_celeba_00.zip").touch()
    assert "unpack" in found()["celeba"].remedy
    (tmp_path / "celeba" / "img_align_celeba").mkdir()
    assert found()["celeba"].status == "ok"
