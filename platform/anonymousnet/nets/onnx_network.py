"""A network from an ONNX file, run on the CPU by OpenVINO.

Measured with CenterFace on one core: float32 in 0.46 of onnxruntime's time and equal to it to 2e-4, bfloat16 (where the
CPU multiplies it in hardware) in 0.22. OpenVINO's wheel brings a telemetry package that only its conversion tools call;
nothing here does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]


class OnnxNetwork:
    """Arrays in, arrays out. Safe to call from many threads; not to be pickled."""

    def __init__(
        self, source: bytes | Path, dtype: torch.dtype = torch.float32, shape: list[int] | None = None
    ) -> None:
        """`source`: the file or its bytes. `dtype`: what to compute in. `shape`: of the one input, -1 for any, where
        the file declares another. Raises RuntimeError where OpenVINO cannot read it."""
        import openvino

        core = openvino.Core()
        model = core.read_model(source, b"") if isinstance(source, bytes) else core.read_model(source)
        if shape is not None:
            model.reshape(shape)
        options = {
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
            "INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS") or 1),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: Any = core.compile_model(model, "CPU", options)
        self.shapes = [[n.get_length() if n.is_static else -1 for n in x.partial_shape] for x in model.inputs]
        """Of its inputs; -1 where any length will do."""

    def __call__(self, x: Array) -> list[Array]:
        """The answers to one input, float32, in the file's order."""
        # A request of its own for every call: one request serves one thread at a time.
        found = self._compiled.create_infer_request().infer([x])
        return [np.array(found[i], np.float32) for i in range(len(found))]
