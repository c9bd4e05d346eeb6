"""Turns a layer, with its shapes, into the work that a runtime does for it.

Two kinds of runtimes are known: ``caffe`` writes columns and multiplies group by group, image by
image, as Caffe does and this program's own executor (``caffesurgery``) too; ``onnxruntime`` has
kernels for whole and for depthwise convolutions and does activations with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from ..cost import Sizes, chain_sizes, column_elements
from ..errors import UsageError, suggest
from ..net.layers.base import legacy
from ..net.layers.pooling import pyramid_windows
from ..net.layers.window import conv_window, pool_sizes, pool_window
from ..net.shapes import LayerShapes
from .work import Work, product, work

RUNTIMES = {
    "caffe": "Caffe on a CPU: im2col and one matrix product a group",
    "caffesurgery": "this program's executor (`caffesurgery time`), which does as Caffe does",
    "onnxruntime": "ONNX Runtime on a CPU: kernels for whole convolutions",
}

_ALIGNED = 4
"""Where channels are no multiple of this, ONNX Runtime does as Caffe: columns (of 1x1 kernels the
maps themselves, and then a pass of its own for the bias) and a product; else, and for less channels
than this, it has a kernel."""

Lower = Callable[[LayerShapes, str], list[Work]]
_LOWER: dict[str, Lower] = {}


def works_of(entry: LayerShapes, runtime: str) -> list[Work] | None:
    """The work of one layer for its whole batch; None for a layer that cannot be counted.

    That is one of an unknown type, one behind it, or one whose time is not in its shapes (data
    read from disk, Python code).
    """
    check_runtime(runtime)
    lower = _LOWER.get(entry.layer.type)
    known = all(shape is not None for shape in (*entry.bottoms, *entry.tops))
    if lower is None or not known:
        return None
    return [work("layer"), *(w for w in lower(entry, runtime) if _is_some(w))]


def works_of_parts(
    parts: Iterable, sizes: Sizes, runtime: str, bias: bool = True, kind: str = "conv",
    images: int = 1,
) -> list[Work]:  # fmt: skip
    """The work of the chain of small layers that a scheme puts in place of one layer.

    parts: as ``chain_cost`` takes them; the dense layer is a chain of one part with the axes 'hw'
    kind: 'conv', or 'fc' for a fully connected layer, whose parts on single pixels are matrices
    """
    check_runtime(runtime)
    chain, found = list(chain_sizes(parts, sizes)), []
    for index, (part, its) in enumerate(chain):
        last = bias and index == len(chain) - 1
        found.append(work("layer"))
        if kind == "fc" and its.h_out == its.w_out == 1:
            found += matrix_works(part.out, part.inp * part.kh * part.kw, images, last, runtime)
        else:
            columns = column_elements(part.inp, part.kh, part.kw, its)
            pixels = its.h_out * its.w_out
            taps = part.kh * part.kw
            found += conv_works(
                part.out, part.inp, part.group, taps, pixels, columns, images, last, runtime
            )
            if part.group == part.inp == part.out:
                found += layout_works(
                    (part.kh, part.kw), part.group, its.h_in * its.w_in, pixels, images, runtime
                )
    return found


def check_runtime(runtime: str) -> None:
    """UsageError for a runtime that there is no lowering to."""
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime '{runtime}'; {suggest(runtime, RUNTIMES)}")


def conv_works(
    outputs: int, channels: int, group: int, taps: int, pixels: int, columns: int, images: int,
    bias: bool, runtime: str,
) -> list[Work]:  # fmt: skip
    """A convolution: ``taps`` kernel elements, ``pixels`` written, ``columns`` by im2col."""
    m, k = outputs // group, channels // group * taps
    if runtime == "onnxruntime":
        if group > 1 and m == 1 and k == taps:
            kind = "ragged" if group % 8 else "depthwise"
            return [work(kind, images, n=pixels, k=taps, group=group)]
        unaligned = group == 1 and channels > _ALIGNED and channels % _ALIGNED
        if unaligned and columns:
            return [product(m, pixels, k, images), work("im2col", images, elements=columns)]
        if taps == 1 and not columns and group == 1:
            terms = [work("bias", images, elements=outputs * pixels)] * bool(unaligned and bias)
            return [product(m, pixels, k, images), *terms]
        return [work("conv", images, m=m, n=pixels, k=k, group=group)]
    found = [product(m, pixels, k, images * group)]
    if columns:
        found.append(work("im2col", images, elements=columns))
    if bias:
        found.append(work("bias", images, elements=outputs * pixels))
    return found


def layout_works(
    kernel: tuple[int, ...], group: int, pixels_in: int, pixels: int, images: int, runtime: str
) -> list[Work]:
    """Changes of layout around a depthwise convolution that ONNX Runtime cannot do by blocks.

    It keeps maps in blocks of 8 channels but where the channels are no multiple of that.  A kernel
    of 1 x E is taken to follow one of D x 1, as the two of a chain do: nothing changes in between.
    """
    if runtime != "onnxruntime" or group % 8 == 0 or group == 1:
        return []
    before, after = kernel[0] > 1, kernel[-1] > 1
    elements = group * (pixels_in * before + pixels * after)
    return [work("reorder", images, elements=elements)] if elements else []


def matrix_works(outputs: int, inputs: int, rows: int, bias: bool, runtime: str) -> list[Work]:
    """A fully connected layer over ``rows`` items; a matrix-vector product for one."""
    found = [product(outputs, rows, inputs)]
    if bias and runtime != "onnxruntime":
        found.append(work("bias", elements=outputs * rows))
    return found


def _is_some(one: Work) -> bool:
    return one.calls > 0 and all(one.sizes.values())


def lowers(*types: str) -> Callable[[Lower], Lower]:
    """Decorator: the work of these layer types."""

    def enter(function: Lower) -> Lower:
        _LOWER.update(dict.fromkeys(types, function))
        return function

    return enter


@lowers("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(entry, runtime):
    axis, window = conv_window(entry.layer, entry.bottoms[0])
    group, found = entry.bottoms[0][axis] // entry.params[0][1], []
    for bottom, top in zip(entry.bottoms, entry.tops):
        taps, pixels = prod(window.kernel), prod(top[axis + 1 :])
        direct = taps == 1 and set(window.stride) <= {1} and not any(window.pad)
        columns = 0 if direct else bottom[axis] * taps * pixels
        found += conv_works(
            top[axis], bottom[axis], group, taps, pixels, columns, prod(bottom[:axis]),
            len(entry.params) > 1, runtime,
        )  # fmt: skip
        if group == bottom[axis] == top[axis]:
            pixels_in = prod(bottom[axis + 1 :])
            found += layout_works(
                window.kernel, group, pixels_in, pixels, prod(bottom[:axis]), runtime
            )
    return found


@lowers("Deconvolution")
def _deconvolution(entry, runtime):
    axis, window = conv_window(entry.layer, entry.bottoms[0])
    group, found = entry.layer.params("convolution_param")["group"], []
    for bottom, top in zip(entry.bottoms, entry.tops):
        rows, pixels = top[axis] // group * prod(window.kernel), prod(bottom[axis + 1 :])
        images = prod(bottom[:axis])
        found.append(product(rows, pixels, bottom[axis] // group, images * group))
        found.append(work("col2im", images, elements=rows * group * pixels))
        if len(entry.params) > 1:
            found.append(work("bias", images, elements=prod(top[axis:])))
    return found


@lowers("InnerProduct")
def _inner(entry, runtime):
    outputs, rows = entry.tops[0][-1], prod(entry.tops[0][:-1])
    inputs = prod(entry.bottoms[0]) // max(rows, 1)
    return matrix_works(outputs, inputs, rows, len(entry.params) > 1, runtime)


@lowers("RNN", "LSTM")
def _recurrent(entry, runtime):
    """The input's product for all steps at once, then one for each step (unrolled by Caffe)."""
    steps, streams = entry.bottoms[0][:2]
    hidden, wide = entry.tops[0][2], entry.params[0][0]
    found = [product(wide, steps * streams, prod(entry.bottoms[0][2:]))]
    found.append(product(wide, streams, hidden, steps))
    return [*found, work("exp", steps, elements=wide * streams), work("layer", 8 * steps)]


@lowers("Pooling")
def _pooling(entry, runtime):
    window = pool_window(entry.layer, entry.bottoms[0])
    method = entry.layer.params("pooling_param")["pool"]
    return [_pool(entry.bottoms[0], entry.tops[0], window, method)]


@lowers("SPP")
def _pyramid(entry, runtime):
    bottom, method = entry.bottoms[0], entry.layer.params("spp_param")["pool"]
    found = []
    for window in pyramid_windows(entry.layer, bottom):
        sizes = pool_sizes(entry.layer, bottom[2:], window)
        found.append(_pool(bottom, bottom[:2] + sizes, window, method))
        found.append(work("copy", elements=prod(bottom[:2] + sizes)))
    return found


def _pool(bottom, top, window, method: str) -> Work:
    """A pooling, with the taps that windows at the border really have."""
    maps, taps = prod(bottom[:2]), 1
    for size, out, kernel, stride, pad in zip(
        bottom[2:], top[2:], window.kernel, window.stride, window.pad
    ):
        starts = (index * stride - pad for index in range(out))
        taps *= sum(max(min(start + kernel, size) - max(start, 0), 0) for start in starts)
    kind = "ave_pool" if method == "AVE" else "max_pool"
    return work(kind, taps=maps * taps, outputs=prod(top), inputs=prod(bottom))


@lowers("LRN")
def _lrn(entry, runtime):
    params, elements = entry.layer.params("lrn_param"), prod(entry.bottoms[0])
    size = params["local_size"]
    if params["norm_region"] == "ACROSS_CHANNELS":
        return [work("lrn", elements=elements, size=size)]
    pool = work("ave_pool", taps=elements * size**2, outputs=elements, inputs=elements)
    return [pool, work("exp", elements=elements), work("scale", 2, elements=elements)]


@lowers("ReLU", "ReLU6", "PReLU", "AbsVal", "Clip", "Threshold")
def _rectifier(entry, runtime):
    return [work("relu", elements=prod(entry.tops[0]))]


@lowers("ELU", "Sigmoid", "TanH", "BNLL", "Swish", "Mish", "Exp", "Log", "Power")
def _function(entry, runtime):
    plain = entry.layer.type == "Power" and entry.layer.params("power_param")["power"] == 1
    return [work("scale" if plain else "exp", elements=prod(entry.tops[0]))]


@lowers("Dropout")
def _dropout(entry, runtime):
    moved = entry.layer.tops[0] != entry.layer.bottoms[0] and runtime == "caffe"
    return [work("copy", elements=prod(entry.tops[0]))] if moved else []


@lowers("Input", "DummyData", "Parameter", "Split", "Reshape", "Flatten", "Silence")
def _nothing(entry, runtime):
    return []


@lowers(
    "Concat", "Slice", "Crop", "Tile", "Filter", "BatchReindex", "Embed", "Reduction", "Permute",
    "ShuffleChannel", "Reorg", "Upsample", "Interp",
)  # fmt: skip
def _moved(entry, runtime):
    read = prod(entry.bottoms[0]) if entry.layer.type == "Reduction" else 0
    return [work("copy", elements=sum(map(prod, entry.tops)) + read)]


@lowers("Im2col")
def _im2col(entry, runtime):
    axis, _ = conv_window(entry.layer, entry.bottoms[0])
    return [work("im2col", prod(entry.tops[0][:axis]), elements=prod(entry.tops[0][axis:]))]


@lowers("BatchNorm", "BN", "Normalize")
def _batchnorm(entry, runtime):
    return [work("batchnorm", elements=prod(entry.tops[0]))]


@lowers("MVN")
def _mvn(entry, runtime):
    return [work("batchnorm", 2, elements=prod(legacy(entry.layer, entry.bottoms[0])))]


@lowers("Scale", "Bias")
def _scale(entry, runtime):
    biased = entry.layer.type == "Scale" and entry.layer.params("scale_param")["bias_term"]
    return [work("scale", 2 if biased else 1, elements=prod(entry.tops[0]))]


@lowers("Eltwise", "Axpy")
def _eltwise(entry, runtime):
    return [work("eltwise", elements=sum(map(prod, entry.bottoms)))]


@lowers(
    "Softmax", "SoftmaxWithLoss", "MultinomialLogisticLoss", "InfogainLoss", "EuclideanLoss",
    "HingeLoss", "SigmoidCrossEntropyLoss", "ContrastiveLoss",
)  # fmt: skip
def _softmax(entry, runtime):
    return [work("softmax", elements=prod(entry.bottoms[0]))]
