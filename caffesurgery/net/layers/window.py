"""Sliding windows: kernel, stride, pad and dilation of convolutions and poolings, and their sizes.

Parameters come once, once for each axis, or as ``_h`` and ``_w``; convolutions round their output
down, poolings up (or down with ``round_mode: FLOOR``) and clip a last window that starts in the
padding.  Follows base_conv_layer, im2col_layer, pooling_layer and spp_layer of BVLC Caffe 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Shape, axis_of, four_axes, refuse


@dataclass(frozen=True)
class Window:
    """A window over the spatial axes; every tuple has one entry for each of them."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    def extents(self) -> Shape:
        """Pixels from the first to the last tap of each axis, gaps included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation))


def conv_window(layer, bottom: Shape) -> tuple[int, Window]:
    """Channel axis and window of a layer with a ``convolution_param`` over ``bottom``."""
    params = layer.params("convolution_param")
    axis = axis_of(layer, bottom, params["axis"])
    axes = len(bottom) - axis - 1
    window = Window(
        kernel=_per_axis(layer, params, "kernel_size", axes, None),
        stride=_per_axis(layer, params, "stride", axes, 1),
        pad=_per_axis(layer, params, "pad", axes, 0),
        dilation=_per_axis(layer, params, "dilation", axes, 1),
    )
    for name in ("kernel", "stride"):
        if 0 in getattr(window, name):
            raise refuse(layer, f"{name} {getattr(window, name)} must be above 0 on every axis")
    return axis, window


def _per_axis(layer, params, name: str, axes: int, default: int | None) -> Shape:
    """One value for each spatial axis, from ``name`` (once or repeated) or its _h and _w forms."""
    high, wide = (f"{name.replace('_size', '')}_{end}" for end in "hw")
    if name != "dilation" and (params.has(high) or params.has(wide)):
        if axes != 2:
            raise refuse(layer, f"{high} and {wide} are for 2 spatial axes, the bottom has {axes}")
        if params[name]:
            raise refuse(layer, f"has both {name} and {high}/{wide}; expected one of them")
        return params[high], params[wide]
    values = params[name]
    if not values and default is not None:
        return (default,) * axes
    if len(values) not in (1, axes):
        raise refuse(
            layer,
            f"{name} is given {len(values)} times; expected once, or once for each of "
            f"{axes} spatial axes",
        )
    return values * axes if len(values) == 1 else values


def conv_sizes(spatial: Shape, window: Window) -> Shape:
    """Output size of a convolution or im2col; C's division, which rounds towards zero."""
    return tuple(
        _quotient(size + 2 * pad - extent, stride) + 1
        for size, pad, extent, stride in zip(spatial, window.pad, window.extents(), window.stride)
    )


def deconv_sizes(spatial: Shape, window: Window) -> Shape:
    """Output size of a deconvolution, the transpose of a convolution."""
    return tuple(
        stride * (size - 1) + extent - 2 * pad
        for size, pad, extent, stride in zip(spatial, window.pad, window.extents(), window.stride)
    )


def _quotient(numerator: int, denominator: int) -> int:
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def pool_window(layer, bottom: Shape) -> Window:
    """Window of a Pooling layer over a 4-D bottom; global pooling takes the whole bottom."""
    four_axes(layer, bottom)
    params = layer.params("pooling_param")
    if params["global_pooling"]:
        if any(params.has(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
            raise refuse(layer, "global_pooling takes the whole bottom; drop the kernel size")
        kernel = bottom[2:]
    else:
        kernel = _pair(layer, params, "kernel_size", required=True)
    window = Window(kernel, _pair(layer, params, "stride"), _pair(layer, params, "pad"), (1, 1))
    _check_pool(layer, params, window)
    return window


def _pair(layer, params, name: str, required: bool = False) -> Shape:
    """(height, width) of a pooling parameter: one number, or both of _h and _w."""
    stem = name.replace("_size", "")
    high, wide = params.has(f"{stem}_h"), params.has(f"{stem}_w")
    if high != wide or (high and params.has(name)) or (required and not high | params.has(name)):
        raise refuse(layer, f"expected {name}, or both of {stem}_h and {stem}_w")
    return (params[f"{stem}_h"], params[f"{stem}_w"]) if high else (params[name],) * 2


def _check_pool(layer, params, window: Window) -> None:
    if 0 in window.kernel or 0 in window.stride:
        raise refuse(layer, f"kernel {window.kernel} and stride {window.stride} must be above 0")
    if params["global_pooling"] and (window.pad != (0, 0) or window.stride != (1, 1)):
        raise refuse(layer, "global_pooling goes with pad 0 and stride 1 only")
    if window.pad != (0, 0):
        if params["pool"] == "STOCHASTIC":
            raise refuse(layer, "stochastic pooling cannot be padded")
        if any(pad >= kernel for pad, kernel in zip(window.pad, window.kernel)):
            raise refuse(layer, f"pad {window.pad} must be below the kernel {window.kernel}")


def rounds_down(params) -> bool:
    """Whether a pooling rounds its output down: ``round_mode: FLOOR``, or forks' ``ceil_mode``."""
    forks = [value.raw for value in params.raw("ceil_mode")]
    return params["round_mode"] == "FLOOR" or forks[-1:] in (["false"], ["0"])


def pool_sizes(layer, spatial: Shape, window: Window, floor: bool = False) -> Shape:
    """Output size of a pooling.

    Rounds up (down with ``floor``); where any axis is padded, a last window that would start
    beyond the image and its leading padding is dropped.
    """
    sizes = []
    for size, kernel, stride, pad in zip(spatial, window.kernel, window.stride, window.pad):
        room = size + 2 * pad - kernel
        out = (room // stride if floor else -(-room // stride)) + 1
        if any(window.pad):
            if (out - 1) * stride >= size + pad:
                out -= 1
            if (out - 1) * stride >= size + pad:
                raise refuse(layer, f"the last window starts outside of a bottom of size {size}")
        sizes.append(out)
    return tuple(sizes)


def pyramid_windows(layer, bottom: Shape) -> list[Window]:
    """The windows of an SPP layer, one for each pyramid level (level i has 2^i bins an axis)."""
    four_axes(layer, bottom)
    if 0 in bottom[2:]:
        raise refuse(layer, f"takes a bottom that is not empty, met {bottom}")
    windows = []
    for level in range(layer.params("spp_param")["pyramid_height"]):
        bins = 2**level
        kernel = tuple(-(-size // bins) for size in bottom[2:])
        pad = tuple((k * bins - size + 1) // 2 for k, size in zip(kernel, bottom[2:]))
        if any(p >= k for p, k in zip(pad, kernel)):
            raise refuse(layer, f"pyramid level {level} needs a bottom larger than {bottom[2:]}")
        windows.append(Window(kernel, kernel, pad, (1, 1)))
    return windows
