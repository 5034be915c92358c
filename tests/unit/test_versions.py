"""Published weights: read whole or not at all, numbered, and never changed once they are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anonymousnet import weights
from anonymousnet.errors import WeightsError
from anonymousnet.weights.versions import latest_version, publish


def put(folder: Path, value: float) -> Path:
    return publish(folder, "universal", {"v": torch.full((3, 4, 4), value)}, {})


def test_nothing_published_is_nothing(tmp_path: Path) -> None:
    assert latest_version(tmp_path) is None
    assert latest_version(tmp_path / "missing") is None


def test_versions_count_up_and_older_ones_stay(tmp_path: Path) -> None:
    first, second = put(tmp_path, 0.25), put(tmp_path, 0.5)
    assert latest_version(tmp_path) == second == tmp_path / "versions" / "0002"
    assert float(weights.tensor(weights.read(str(first)), "v").mean()) == 0.25


def test_the_same_again_is_no_new_version(tmp_path: Path) -> None:
    assert put(tmp_path, 0.25) == put(tmp_path, 0.25)
    assert [p.name for p in (tmp_path / "versions").iterdir()] == ["0001"]


def test_a_writer_killed_before_it_moved_the_pointer_leaves_no_trace(tmp_path: Path) -> None:
    put(tmp_path, 0.25)
    for name in ("0002", "0002.partial"):
        (tmp_path / "versions" / name).mkdir()
    assert latest_version(tmp_path) == tmp_path / "versions" / "0001"
    assert float(weights.tensor(weights.read(str(put(tmp_path, 0.5))), "v").mean()) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"version": "../../etc", "sha256": ""}', "is damaged|leads to no weights"),
        ('{"version": "0007", "sha256": "0"}', "leads to no weights"),
        ('{"version": "0001", "sha256": "0"}', "holds other weights"),
        ('{"version": 1, "sha256": "0"}', "is damaged"),
    ],
)
def test_a_damaged_pointer_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, 0.25)
    (tmp_path / "latest.json").write_text(text)
    with pytest.raises(WeightsError, match=message) as raised:
        latest_version(tmp_path)
    assert "\n" not in str(raised.value)
    assert "latest.json" in str(raised.value)


def test_the_pointer_holds_what_it_points_to(tmp_path: Path) -> None:
    put(tmp_path, 0.25)
    pointer = json.loads((tmp_path / "latest.json").read_text())
    assert pointer == {"version": "0001", "sha256": weights.read(str(tmp_path / "versions" / "0001")).sha256}
