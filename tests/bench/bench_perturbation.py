"""The universal perturbation against ten plain sign-gradient epochs and adversarial-robustness-toolbox, at one thread.

A small ResNet with ten classes is trained on synthetic pictures; v is made from 500 of them, at 10/255, and judged on
1,000 others. CPU seconds are the process's own. Training takes about half a minute, the toolbox three. One run here:
plain 0.898 in 5.6 s; sgd 0.898 in 5.6 s (5 epochs: 2.9 s; bf16: 3.5 s); deepfool 0.735 in 5.7 s; the toolbox 0.401 in
4.1 s (FGSM, one epoch), 0.647 in 162 s and 0.683 in 258 s (DeepFool, one and two epochs).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anonymousnet.device import autocast, cpu_has_bf16
from anonymousnet.training.fooling import noise_like
from anonymousnet.training.targets import ClassTarget, fooling_rates
from anonymousnet.training.universal import Plan, Solver, solve

XI, CLASSES, PX = 10 / 255, 10, 64
MADE_FROM, UNSEEN, TRAINED_ON = 500, 1000, 4000


def pictures(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n, 3, 64, 64) in [-1, 1] and their classes: a faint smooth pattern, shifted, over a stronger random one."""
    kinds = torch.Generator().manual_seed(99)
    generator = torch.Generator().manual_seed(seed)
    patterns = _smooth(CLASSES, 6, kinds)
    truth = torch.randint(CLASSES, (n,), generator=generator)
    shifts = torch.randint(-4, 5, (n, 2), generator=generator).tolist()
    shifted = torch.stack([patterns[k].roll(s, (1, 2)) for k, s in zip(truth.tolist(), shifts, strict=True)])
    strength = 0.06 + 0.12 * torch.rand(n, 1, 1, 1, generator=generator)
    grain = 0.1 * torch.randn(n, 3, PX, PX, generator=generator)
    return (strength * shifted + 0.21 * _smooth(n, 8, generator) + grain).clamp(-1, 1), truth


def _smooth(n: int, cells: int, generator: torch.Generator) -> Tensor:
    return F.interpolate(torch.randn(n, 3, cells, cells, generator=generator), size=PX, mode="bicubic")


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False), nn.BatchNorm2d(channels_out),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def small_resnet() -> nn.Module:
    """Trained in five epochs to about 0.94 of the unseen pictures."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    faces, truth = pictures(TRAINED_ON, 1)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    steps = 5 * (TRAINED_ON // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = np.random.default_rng([0, step]).permutation(TRAINED_ON)[:64]
        optimizer.zero_grad()
        F.cross_entropy(net(faces[rows]), truth[rows]).backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def plain(net: nn.Module, faces: Tensor) -> Tensor:
    """The peer: ten epochs of sign-gradient ascent on the cross-entropy, batches of 50, steps of xi/10."""
    bound, v = 2 * XI, torch.zeros(3, PX, PX)
    clean = net(faces).argmax(1)
    for epoch in range(10):
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(len(faces)))
        for rows in order.split(50):
            free = v.clone().requires_grad_(True)
            loss = F.cross_entropy(net((faces[rows] + free).clamp(-1, 1)), clean[rows])
            v = (v + bound / 10 * torch.autograd.grad(loss, free)[0].sign()).clamp(-bound, bound)
    return v


def ours(net: nn.Module, faces: Tensor, solver: Solver, epochs: int) -> Tensor:
    """Our solver's v in the faces' units (span 2)."""
    return solve(faces, [ClassTarget(net)], Plan(XI, solver, epochs)).v * 2 * XI


def toolbox(net: nn.Module, faces: Tensor, attacker: str, epochs: int) -> Tensor:
    """adversarial-robustness-toolbox's UniversalPerturbation, its inner attack at the toolbox's own settings."""
    import random

    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    random.seed(0)

    class Unit(nn.Module):
        """The network on [0, 1], the range that the toolbox expects."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x * 2 - 1)
            return out

    classifier = PyTorchClassifier(Unit(), nn.CrossEntropyLoss(), (3, PX, PX), CLASSES, clip_values=(0.0, 1.0),
                                   device_type="cpu")  # fmt: skip
    inner = {"verbose": False} if attacker == "deepfool" else {"eps": XI}
    attack = UniversalPerturbation(classifier, attacker, inner, delta=0.2, max_iter=epochs, eps=XI, verbose=False)
    attack.generate(((faces + 1) / 2).numpy())
    return torch.from_numpy(np.asarray(attack.noise[0], dtype=np.float32)) * 2


def report(name: str, net: nn.Module, make: Callable[[], Tensor], unseen: Tensor, base: float | None = None) -> float:
    """Print the fooling rate on unseen pictures, random noise's beside it, and the CPU seconds; return those."""
    started = time.process_time()
    v = make()
    seconds = time.process_time() - started
    target = [ClassTarget(net)]
    (rate,), (noise,) = fooling_rates(v, unseen, target), fooling_rates(noise_like(v), unseen, target)
    ratio = f"  {seconds / base:5.2f}x the CPU of plain sign-gradient" if base else ""
    size = float(v.abs().max()) / 2 * 255
    print(f"{name:<28} fools {rate:.3f}  (noise {noise:.3f}, {size:.1f}/255)  {seconds:7.1f} CPU s{ratio}", flush=True)
    return seconds


def main() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net, faces, unseen = small_resnet(), pictures(MADE_FROM, 3)[0], pictures(UNSEEN, 2)[0]
    base = report("plain sign-gradient, 10", net, lambda: plain(net, faces), unseen)
    report("sgd, 5 epochs", net, lambda: ours(net, faces, "sgd", 5), unseen, base)
    report("sgd, 10 epochs", net, lambda: ours(net, faces, "sgd", 10), unseen, base)
    if cpu_has_bf16():
        with autocast(torch.device("cpu"), torch.bfloat16):
            report("sgd, 10 epochs, bf16", net, lambda: ours(net, faces, "sgd", 10), unseen, base)
    report("deepfool, 4 epochs", net, lambda: ours(net, faces, "deepfool", 4), unseen, base)
    if find_spec("art"):
        report("toolbox, FGSM, 2 epochs", net, lambda: toolbox(net, faces, "fgsm", 2), unseen, base)
        report("toolbox, DeepFool, 1 epoch", net, lambda: toolbox(net, faces, "deepfool", 1), unseen, base)
    else:
        print("LEFT OUT: adversarial-robustness-toolbox is not installed; pip install adversarial-robustness-toolbox")
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
