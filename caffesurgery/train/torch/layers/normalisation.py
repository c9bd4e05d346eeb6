"""Normalisation (BatchNorm, LRN, MVN), and the factors and terms that go with it (Scale, Bias).

BatchNorm keeps Caffe's three blobs: the running sums of mean and unbiased variance, and the factor
by which both are to be divided.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ....net.layers.normalisation import check_factor
from .base import Build, Context, Forward, elementwise, trains
from .synced import synced_batch_norm


@trains("BatchNorm")
def batch_norm(build: Build) -> Forward:
    """(x - mean) / sqrt(variance + eps); with the factor and term of a Scale behind it, if given.

    Statistics are those of the batch where the phase is TRAIN or ``use_global_stats`` says so, and
    then the stored ones are moved on.
    """
    params = build.params("batch_norm_param")
    stored = build.phase == "TEST"
    if params.has("use_global_stats"):
        stored = params["use_global_stats"]
    if stored:
        return _by_stored(params["eps"])
    return _by_batch(build.context, params["eps"], params["moving_average_fraction"])


def _by_stored(eps: float) -> Forward:
    def forward(bottoms, blobs):
        mean, variance, factor, *affine = blobs
        share = torch.where(factor == 0, factor, 1 / factor)
        factor, term = affine if len(affine) == 2 else (*affine, *[None] * (2 - len(affine)))
        return F.batch_norm(bottoms[0], mean * share, variance * share, factor, term, eps=eps)

    return forward


def _by_batch(context: Context, eps: float, fraction: float) -> Forward:
    def forward(bottoms, blobs):
        (x,), (mean, variance, count, *affine) = bottoms, blobs
        factor, term = affine if len(affine) == 2 else (*affine, *[None] * (2 - len(affine)))
        if context.of > 1:
            top, now, spread = synced_batch_norm(x, factor, term, eps)
        else:
            # a momentum of 1 leaves the batch's own mean and unbiased variance there, plus 0 times
            # what was there before, which has to be a number
            now, spread = torch.zeros_like(mean), torch.zeros_like(variance)
            top = torch.batch_norm(
                x, factor, term, now, spread, True, 1.0, eps, torch.backends.cudnn.enabled
            )
            if x.numel() == x.shape[1]:
                spread.zero_()  # a single number: its variance is 0, the unbiased one 0/0
        with torch.no_grad():
            mean.mul_(fraction).add_(now)
            variance.mul_(fraction).add_(spread)
            count.mul_(fraction).add_(1)
        return top

    return forward


@trains("MVN")
def mvn(build: Build) -> Forward:
    """x - mean over each plane (or item), divided by the standard deviation plus eps."""
    params = build.params("mvn_param")
    axes, eps = ((1, 2, 3) if params["across_channels"] else (2, 3)), params["eps"]

    def normalised(x):
        x = x.reshape(build.top)
        x = x - x.mean(axes, keepdim=True)
        if not params["normalize_variance"]:
            return x
        return x / (x.square().mean(axes, keepdim=True).sqrt() + eps)

    return elementwise(normalised)


@trains("LRN")
def lrn(build: Build) -> Forward:
    """x * (k + alpha/n * sum of squares nearby) ** -beta; within channels k is 1.

    The sum is over ``local_size`` channels, or over a square of that size in the same channel.
    """
    params = build.params("lrn_param")
    size, alpha, beta, shift = (params[name] for name in ("local_size", "alpha", "beta", "k"))
    if params["norm_region"] == "ACROSS_CHANNELS":
        return elementwise(lambda x: F.local_response_norm(x, size, alpha, beta, shift))

    def within(x):
        return x * (F.avg_pool2d(x.square(), size, 1, size // 2) * alpha + 1) ** -beta

    return elementwise(within)


@trains("Scale")
def scale(build: Build) -> Forward:
    """Multiplies by a learned factor, or by bottom 1; ``bias_term`` adds a learned term."""
    params = build.params("scale_param")
    axis, biased, learned = params["axis"], params["bias_term"], len(build.layer.bottoms) == 1

    def forward(bottoms, blobs):
        top = bottoms[0] * _spread(build, blobs[0] if learned else bottoms[1], axis)
        return top + _spread(build, blobs[-1], axis) if biased else top

    return forward


@trains("Bias")
def bias(build: Build) -> Forward:
    """Adds a learned term, or bottom 1."""
    axis, learned = build.params("bias_param")["axis"], len(build.layer.bottoms) == 1
    return lambda bottoms, blobs: (
        bottoms[0] + _spread(build, blobs[0] if learned else bottoms[1], axis)
    )


def _spread(build: Build, factor: torch.Tensor, axis: int) -> torch.Tensor:
    """A view of the factor that lines up with bottom 0 from ``axis`` on."""
    shape = tuple(factor.shape)
    start = check_factor(build.layer, build.bottom, shape, axis)
    return factor.reshape(shape + (1,) * (len(build.bottom) - start - len(shape)))
