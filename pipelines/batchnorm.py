"""Batch norm over the faces of all workers: with it, a run on many workers takes the steps of a run on one.

torch's SyncBatchNorm does this on GPUs alone; `shared_batch_norms` uses it there, and ours on CPUs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def shared_batch_norms(net: nn.Module, device: torch.device) -> nn.Module:
    """The network with every batch norm replaced by one that shares its statistics; same names, same parameters."""
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return synced
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            shared = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            shared.load_state_dict(child.state_dict())
            setattr(net, name, shared)
        else:
            shared_batch_norms(child, device)
    return net


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm (Ioffe & Szegedy, ICML 2015) of B x C x ..., statistics over all workers' faces."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, var, count = _statistics(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum or 0.1)
        out: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, var, count, self.eps)  # type: ignore[no-untyped-call]
        return out


@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """(mean, variance, count) per channel over all workers, float32."""
    # Batch norm's own kernel measures a hundred times faster than `var_mean`. In bfloat16 it keeps float32 statistics
    # where it is shown float32 ones.
    running = torch.zeros(2, x.shape[1], device=x.device)
    own_mean, own_var = torch.batch_norm_update_stats(x, running[0], running[1], 0.0)
    count = x.numel() / x.shape[1]
    mean = own_mean.double()  # squares of means cancel: not in float32
    sums = torch.cat([mean * count, (own_var.double() + mean.square()) * count, mean.new_tensor([count])])
    dist.all_reduce(sums)
    first, second = sums[:-1].chunk(2)
    total = float(sums[-1])
    mean = first / total
    return mean.float(), (second / total - mean.square()).clamp(min=0).float(), total


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, where mean and var depend on all workers' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, count: float,
        eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        own, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(memory_format=_format(x)), x, weight, mean, var, None, None, False, ctx.eps, [True] * 3
        )
        if weight is None:  # nobody asked for these sums, but the statistics' share needs them
            inverse = torch.rsqrt(var + ctx.eps)
            dims = [d for d in range(x.ndim) if d != 1]
            by_bias = gradient.float().sum(dims)
            shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
            by_weight = (gradient.float() * (x.float() - mean.view(shape))).sum(dims) * inverse
        sums = torch.cat([by_weight, by_bias]).float()
        dist.all_reduce(sums)
        over_weight, over_bias = (sums / ctx.count).chunk(2)
        # The gradient through mean and variance is linear in x: slope * x + offset, per channel.
        scale = torch.rsqrt(var + ctx.eps)
        gain = scale if weight is None else scale * weight
        slope = -gain * scale * over_weight
        offset = -gain * over_bias - slope * mean
        # Batch norm of mean 0 and variance 1 is just this, and twice as fast as `addcmul`.
        through = F.batch_norm(x, torch.zeros_like(mean), torch.ones_like(var), slope, offset, False, 0.0, 0.0)
        grads = (by_weight, by_bias) if weight is not None else (None, None)
        return own.add_(through), *grads, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format
