"""Where networks run, and in which arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from anonymousnet.errors import ConfigError


def arithmetic(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Resolve the `device` and `precision` settings: where networks run, and in which type.

    Raises ConfigError where a GPU is asked for and none is there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a GPU, found none; set device to auto or cpu")
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if where.type == "cuda" else cpu_has_bf16()
        precision = "bf16" if fast else "fp32"
    return where, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (elsewhere it is emulated, far slower than float32)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision for bf16, nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
