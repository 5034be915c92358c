"""Where networks run, and in which arithmetic."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from anonymousnet.errors import ConfigError

Net = TypeVar("Net", bound=nn.Module)


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


def quickest(device: str, precision: str) -> str:
    """`precision`, where "auto" also weighs speed: without AMX, float32 trains a network of ours 1.5 times as fast as
    bfloat16 on the CPU it was measured on. For work that need not give the same bits as elsewhere."""
    gpu = device != "cpu" and torch.cuda.is_available()
    return "fp32" if precision == "auto" and not gpu and not torch.cpu._is_amx_tile_supported() else precision


def threads() -> int:
    """Threads of one process, as OMP_NUM_THREADS has it; 1 where it is not set. Raises ConfigError."""
    said = os.environ.get("OMP_NUM_THREADS") or "1"
    if not (said.isascii() and said.isdigit() and int(said) > 0):
        raise ConfigError(f"OMP_NUM_THREADS: expected one number of 1 or more, got {said!r}; set it, or leave it out")
    return int(said)


def to_device(net: Net, device: torch.device) -> Net:
    """Move a network, channels last: the layout that convolutions are fastest in, on CPUs and GPUs."""
    net.to(device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision for bf16, nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


class Runner:
    """Runs networks so that, if `steady`, a face's result does not depend on which faces share its batch.

    On a CPU, bfloat16 kernels give the same bits for any batch size (measured), float32 kernels do not: there faces
    go through one by one. On a GPU every chunk is padded to `batch` faces, so that the same kernels are chosen.
    """

    def __init__(self, device: str = "auto", precision: str = "auto", batch: int = 16, steady: bool = True) -> None:
        self.device, self.dtype = arithmetic(device, precision)
        alone = steady and (self.device.type, self.dtype) == ("cpu", torch.float32)
        self.batch = 1 if alone else batch

    @property
    def form(self) -> str:
        """What the bytes of a result depend on beside its inputs, for the record."""
        return f"{self.device.type}-{str(self.dtype).removeprefix('torch.')}"

    def place(self, net: Net) -> Net:
        """Move a network to the device, in evaluation mode."""
        return to_device(net, self.device).eval()

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function` over rows of the inputs, in chunks; result on the CPU. No rows: a row of zeros tells the shape."""
        if not len(inputs[0]):
            return self(function, *(torch.zeros(1, *x.shape[1:], dtype=x.dtype) for x in inputs))[:0]
        with torch.inference_mode(), autocast(self.device, self.dtype):
            parts = [
                self._chunk(function, [x[start : start + self.batch] for x in inputs])
                for start in range(0, len(inputs[0]), self.batch)
            ]
        return torch.cat(parts)

    def _chunk(self, function: Callable[..., Tensor], rows: list[Tensor]) -> Tensor:
        n = len(rows[0])
        if self.device.type != "cpu" and n < self.batch:
            rows = [torch.cat([x, x.new_zeros(self.batch - n, *x.shape[1:])]) for x in rows]
        placed = [x.to(self.device, memory_format=_layout(x)) for x in rows]
        return function(*placed).float().cpu()[:n]


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.contiguous_format
