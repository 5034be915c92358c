"""Milliseconds a face of each network that reads faces: batch, threads, arithmetic, folded or as it was trained."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from anonymousnet import weights
from anonymousnet.device import autocast, to_device
from anonymousnet.nets.classifier import Classifier
from anonymousnet.nets.dan import DAN, DANConfig
from anonymousnet.nets.embedder import Embedder
from anonymousnet.nets.fold import folded

SECONDS = 1.0
ARITHMETIC = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    nets = {
        "attributes": (weights.build(weights.read("attributes"), Classifier), 128),
        "embedder": (embedder := weights.build(weights.read("embedder"), Embedder), embedder.config.px),
        "landmarks": (DAN(DANConfig()), DANConfig().px),  # speed does not depend on what was learned
    }
    for name, (net, px) in nets.items():
        forms = {"trained": to_device(net.eval(), cpu), "folded": to_device(folded(net), cpu)}
        for cores in (1, 2):
            torch.set_num_threads(cores)
            for batch in (1, 8, 32):
                faces = torch.rand(batch, 3, px, px).mul_(2).sub_(1).contiguous(memory_format=torch.channels_last)
                told = []
                for kind, dtype in ARITHMETIC.items():
                    ms = {form: _milliseconds(placed, faces, dtype) / batch for form, placed in forms.items()}
                    ratio = ms["trained"] / ms["folded"]
                    told.append(
                        f"{kind} {ms['folded']:6.2f} ms ({1000 / ms['folded']:4.0f}/s, {ratio:.2f} x as trained)"
                    )
                print(
                    f"{name:<11} {cores} core{'s' if cores > 1 else ' '} batch {batch:>2}: {'  '.join(told)}",
                    flush=True,
                )
    torch.set_num_threads(threads)


def _milliseconds(net: nn.Module, faces: Tensor, dtype: torch.dtype) -> float:
    """Median time of one call."""
    taken: list[float] = []
    with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
        net(faces)
        while sum(taken) < SECONDS:
            start = time.perf_counter()
            net(faces)
            taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2] * 1000


if __name__ == "__main__":
    main()
