"""Training checkpoints: one folder a checkpoint, safetensors and JSON only, complete or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anonymousnet.errors import CheckpointError, StorageError
from anonymousnet.training.engine import Engine


def save_checkpoint(out: Path, step: int, states: Mapping[str, Mapping[str, Tensor]], run: Mapping[str, Any]) -> None:
    """Write OUT/step-N.ckpt beside, then rename; older ones go once it stands. `states`: every engine's.

    Raises StorageError on a full disk.
    """
    final = _folder(out, step)
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, state in states.items():
            save_file(dict(state), partial / f"{name}.safetensors")
        (partial / "run.json").write_text(json.dumps({"step": step, **run}))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(
            f"cannot write checkpoint {final}: {error}; free some disk, or choose another --out"
        ) from error
    for old in _all(out):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(out: Path, engines: Mapping[str, Engine], run: Mapping[str, Any]) -> int:
    """Load the newest checkpoint of OUT into the engines; returns the step to go on with (0 where there is none).

    Raises CheckpointError when it is damaged, or was made with other settings than `run`.
    """
    found = _all(out)
    if not found:
        return 0
    newest = found[-1]
    try:
        saved = json.loads((newest / "run.json").read_text())
        states = {name: load_file(newest / f"{name}.safetensors") for name in engines}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {newest} does not read ({error}); delete it to start again") from error
    for key, value in run.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"checkpoint {newest} was made with {key}={saved.get(key)}, this run has {key}={value}; "
                "use the same settings, or another --out"
            )
    for name, engine in engines.items():
        engine.load(states[name])
    return int(saved["step"])


def _folder(out: Path, step: int) -> Path:
    return out / f"step-{step:08d}.ckpt"


def _all(out: Path) -> list[Path]:
    return sorted(out.glob("step-*.ckpt"))
