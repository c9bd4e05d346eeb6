"""Depthwise convolutions in C: what columns and products give, derivatives too, and refusals."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caffesurgery.calibration.slopes import Pass, derivative_of
from caffesurgery.forward import depthwise
from caffesurgery.forward.alone import run_layer
from caffesurgery.net.net import parse_net
from caffesurgery.net.shapes import infer

COMPILED = depthwise._depthwise
pytestmark = pytest.mark.skipif(COMPILED is None, reason="the C extension was not built")


def layer(shape, group=None, outputs=None, **window):
    """A convolution of ``shape`` (N, C, H, W), depthwise unless ``group`` says otherwise."""
    words = " ".join(f"{name}: {value}" for name, value in window.items())
    dims = " ".join(f"dim: {size}" for size in shape)
    text = (
        f'input: "x" input_shape {{ {dims} }} layer {{ name: "c" type: "Convolution" bottom: "x" '
        f'top: "y" convolution_param {{ num_output: {outputs or shape[1]} '
        f"group: {group or shape[1]} {words} }} }}"
    )
    return infer(parse_net(text)).layers[-1]


def all_of(entry, blobs, bottom, slope):
    """Top, slopes by the bottom and by the blobs."""
    (top,) = run_layer(entry, blobs, [bottom])
    before, own = derivative_of(entry)(Pass(entry, blobs, [bottom], top, slope, True, True))
    return [top, *before, *own]


axes = st.tuples(
    st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3)
)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), axes, axes, st.booleans())
@example(2, 3, (33, 3, 1, 1, 1), (40, 3, 1, 1, 1), True)
@example(1, 1, (5000, 3, 1, 1, 1), (2, 1, 0, 1, 1), True)
def test_gives_what_columns_give(items, channels, high, wide, biased):
    window = {"bias_term": str(biased).lower()}
    for axis, (_, kernel, pad, stride, _) in (("h", high), ("w", wide)):
        window |= {f"kernel_{axis}": kernel, f"pad_{axis}": pad, f"stride_{axis}": stride}
    dilations = f"{high[4]} dilation: {wide[4]}"
    reach = [size + 2 * pad - d * (k - 1) for size, k, pad, _, d in (high, wide)]
    if min(reach) < 1:
        return
    entry = layer((items, channels, high[0], wide[0]), dilation=dilations, **window)
    rng = np.random.default_rng(0)
    blobs = [rng.standard_normal(shape).astype(np.float32) for shape in entry.params]
    bottom, slope = (
        rng.standard_normal(shape).astype(np.float32) for shape in (*entry.bottoms, *entry.tops)
    )
    assert depthwise.fits(entry)
    found = all_of(entry, blobs, bottom, slope)
    with mock.patch.object(depthwise, "_depthwise", None):
        assert not depthwise.fits(entry)
        expected = all_of(entry, blobs, bottom, slope)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_other_convolutions_do_not_fit():
    assert not depthwise.fits(layer((1, 4, 5, 5), group=2, kernel_size=3))
    assert not depthwise.fits(layer((1, 4, 5, 5), outputs=8, kernel_size=3))
    assert not depthwise.fits(layer((1, 4, 5, 5, 5), kernel_size=3))
    assert not depthwise.fits(layer((1, 4, 5, 5), axis=2, outputs=5, group=5, kernel_size=3))


def arrays(image=(1, 2, 5, 5), kernel=(2, 3, 3), top=(1, 2, 3, 3), dtype=np.float32):
    return [np.zeros(shape, dtype) for shape in (image, kernel, top)]


AXES = (0, 0), (1, 1), (1, 1)
LARGE = 2**31
REFUSED = {
    "doubles": (arrays(dtype=np.float64), AXES, "float32"),
    "axes": (arrays(kernel=(2, 9)), AXES, "3 axes"),
    "channels": (arrays(kernel=(3, 3, 3)), AXES, "channels"),
    "items": (arrays(top=(2, 2, 3, 3)), AXES, "items"),
    "no values": (arrays((1, 0, 5, 5), (0, 3, 3), (1, 0, 3, 3)), AXES, "channels"),
    "top too large": (arrays(top=(1, 2, 4, 3)), AXES, "height"),
    "no top": (arrays(top=(1, 2, 3, 0)), AXES, "width"),
    "pad": (arrays(), ((-1, 0), (1, 1), (1, 1)), "height"),
    "stride": (arrays(), ((0, 0), (1, 0), (1, 1)), "width"),
    "dilation": (arrays(), ((0, 0), (1, 1), (LARGE, 1)), "height"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("which", ["tops", "images", "kernels"])
def test_what_does_not_fit_is_refused(which, name):
    given_, window, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        getattr(COMPILED, which)(*given_, *window)


def test_only_contiguous_memory_is_written():
    image, kernel, top = arrays()
    with pytest.raises((ValueError, BufferError)):
        COMPILED.tops(image.transpose(0, 1, 3, 2), kernel, top, *AXES)
    top.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        COMPILED.tops(image, kernel, top, *AXES)


def test_pads_far_beyond_the_image_are_gone_through_row_by_row():
    image, kernel, _ = arrays((1, 2, 5, 1))
    image[:], kernel[:] = 1, 1
    top = np.empty((1, 2, 2 * 10**5 + 3, 1), np.float32)
    COMPILED.tops(image, kernel, top, (10**5, 1), (1, 1), (1, 1))
    assert top.sum() == image.sum() * 3 and top[0, 0, 10**5].item() == 3
