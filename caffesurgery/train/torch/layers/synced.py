"""BatchNorm over the batches of all processes: the statistics that one process would have."""

from __future__ import annotations

import torch


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as each has a share of the loss."""

    @staticmethod
    def forward(context, values):
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient):
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


def synced_batch_norm(
    x: torch.Tensor, factor: torch.Tensor | None, term: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(Top, mean, unbiased variance) over every process' ``x`` (N, C, ...), slices of one size."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = (1, -1) + (1,) * (x.ndim - 2)
    count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
    mean = _Sum.apply(x.sum(axes)) / count
    away = x - mean.reshape(shape)
    variance = _Sum.apply(away.square().sum(axes)) / count
    top = away * (variance + eps).rsqrt().reshape(shape)
    if factor is not None:
        top = top * factor.reshape(shape)
    if term is not None:
        top = top + term.reshape(shape)
    return top, mean.detach(), variance.detach() * (count / max(count - 1, 1))
