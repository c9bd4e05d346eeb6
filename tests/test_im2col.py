"""im2col and col2im: Caffe's columns to the bit, from C and from NumPy, and errors for the rest."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, shared_root
from hypothesis import given, settings
from hypothesis import strategies as st

from caffesurgery.cost import im2col as module
from caffesurgery.cost.im2col import by_group, col2im, im2col, output_size
from caffesurgery.errors import NetError, SurgeryError
from caffesurgery.files.caffemodel import read
from caffesurgery.net.net import read_net

COMPILED = module._im2col
needs_c = pytest.mark.skipif(COMPILED is None, reason="the C extension was not built")
GOLDEN = sorted(path.name for path in shared_root().glob("golden/conv_*"))


@contextlib.contextmanager
def backend(name):
    """Runs a block on one backend, whatever was chosen at import."""
    chosen = module._im2col
    module._im2col = COMPILED if name == "C" else None
    try:
        yield
    finally:
        module._im2col = chosen


BACKENDS = ["NumPy"] if COMPILED is None else ["C", "NumPy"]


def naive_columns(image, kernel, pad, stride, dilation):
    """Caffe's definition, one value at a time."""
    channels, height, width = image.shape
    high, wide = output_size((height, width), kernel, pad, stride, dilation)
    out = np.zeros((channels, *kernel, high, wide), image.dtype)
    for c, ky, kx, oy, ox in np.ndindex(*out.shape):
        y = oy * stride[0] - pad[0] + ky * dilation[0]
        x = ox * stride[1] - pad[1] + kx * dilation[1]
        if 0 <= y < height and 0 <= x < width:
            out[c, ky, kx, oy, ox] = image[c, y, x]
    return out.reshape(channels * kernel[0] * kernel[1], high * wide)


def naive_image(columns, shape, kernel, pad, stride, dilation):
    """The sum over the columns, one value at a time, in Caffe's order."""
    channels, height, width = shape
    high, wide = output_size((height, width), kernel, pad, stride, dilation)
    columns = columns.reshape(channels, *kernel, high, wide)
    image = np.zeros(shape, columns.dtype)
    for c, ky, kx, oy, ox in np.ndindex(*columns.shape):
        y = oy * stride[0] - pad[0] + ky * dilation[0]
        x = ox * stride[1] - pad[1] + kx * dilation[1]
        if 0 <= y < height and 0 <= x < width:
            image[c, y, x] += columns[c, ky, kx, oy, ox]
    return image


def bits(array):
    return array.view(np.uint32 if array.dtype == np.float32 else np.uint64)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def geometries(draw):
    """(N or None, C, (H, W), kernel, pad, stride, dilation) where the kernel fits."""
    kernel, dilation, pad, stride = (draw(pairs(*r)) for r in ((1, 4), (1, 3), (0, 5), (1, 4)))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    lowest = [max(1, e - 2 * p - s + 1) for e, p, s in zip(extent, pad, stride)]
    size = tuple(draw(st.integers(low, e + 8)) for low, e in zip(lowest, extent))
    batch = draw(st.none() | st.integers(1, 3))
    return batch, draw(st.integers(1, 3)), size, kernel, pad, stride, dilation


def noise(shape, dtype, seed):
    """Random bits: every kind of float, NaN payloads, infinities and denormals among them."""
    width = np.dtype(dtype).itemsize
    return np.random.default_rng(seed).bytes(int(np.prod(shape)) * width), shape, dtype


def decode(raw, shape, dtype):
    return np.frombuffer(raw, dtype).reshape(shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1))
def test_columns_equal_caffes_definition_bit_for_bit(name, dtype, geometry, seed):
    batch, channels, size, *window = geometry
    images = decode(*noise((batch or 1, channels, *size), dtype, seed))
    expected = np.stack([naive_columns(image, *window) for image in images])
    if batch is None:
        images, expected = images[0], expected[0]
    out = np.full_like(expected, 7)
    with backend(name):
        columns = im2col(images, *window)
        assert im2col(images, *window, out=out) is out
    assert columns.shape == expected.shape and columns.dtype == dtype
    assert np.array_equal(bits(columns), bits(expected))
    assert np.array_equal(bits(out), bits(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(geometry=geometries(), seed=st.integers(0, 2**32 - 1))
def test_images_equal_the_sum_in_caffes_order_bit_for_bit(name, dtype, geometry, seed):
    batch, channels, size, *window = geometry
    shape = (channels, *size) if batch is None else (batch, channels, *size)
    rng = np.random.default_rng(seed)
    columns = im2col(np.zeros(shape, dtype), *window)
    columns[...] = rng.standard_normal(columns.shape) * 10.0 ** rng.integers(-3, 4, columns.shape)
    stack = columns.reshape(batch or 1, *columns.shape[-2:])
    expected = np.stack([naive_image(c, (channels, *size), *window) for c in stack])
    out = np.full(shape, 7, dtype)
    with backend(name):
        image = col2im(columns, shape, *window)
        assert col2im(columns, shape, *window, out=out) is out
    assert image.shape == shape and image.dtype == dtype
    assert np.array_equal(bits(image), bits(expected.reshape(shape)))
    assert np.array_equal(bits(out), bits(expected.reshape(shape)))


@pytest.mark.parametrize("name", BACKENDS)
def test_one_number_stands_for_both_axes(name):
    image = np.arange(2 * 9 * 8, dtype=np.float32).reshape(2, 9, 8)
    with backend(name):
        one = im2col(image, 3, 1, 2, 2)
        two = im2col(image, [3, 3], (1, 1), np.array([2, 2]), (2, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_share_the_work_without_a_trace(threads):
    """Large enough that threads are started, and that columns are written past the caches."""
    rng = np.random.default_rng(0)
    for shape, window in [((5, 130, 131), (9, 3, 1, 1)), ((11, 260, 270), (8, 1, 3, 1))]:
        image = rng.standard_normal(shape).astype(np.float32)
        window = [(v, v) for v in window]
        expected = np.empty(
            (shape[0] * window[0][0] ** 2, np.prod(output_size(shape[1:], *window))), np.float32
        )
        module._im2col_numpy(image, expected, *window)
        assert np.array_equal(im2col(image, *window, threads=threads), expected)
        back = np.empty_like(image)
        module._col2im_numpy(back, expected, *window)
        assert np.array_equal(col2im(expected, shape, *window, threads=threads), back)


@pytest.mark.parametrize("name", BACKENDS)
def test_input_of_any_layout_gives_the_same_columns(name):
    image = np.random.default_rng(0).standard_normal((3, 10, 8)).astype(np.float32)
    raw = np.zeros(image.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(image.shape)
    unaligned[...] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    with backend(name):
        expected = im2col(image, 3, 1, 2)
        for other in (image.transpose(2, 1, 0).copy().transpose(2, 1, 0), unaligned, frozen):
            assert np.array_equal(im2col(other, 3, 1, 2), expected)


def test_columns_of_a_group_are_a_view():
    image = np.random.default_rng(0).standard_normal((2, 6, 5, 5)).astype(np.float32)
    columns = im2col(image, 3)
    split = by_group(columns, 3)
    assert np.shares_memory(split, columns)
    for g in range(3):
        assert np.array_equal(split[:, g], im2col(image[:, 2 * g : 2 * g + 2], 3))
    with pytest.raises(NetError, match="54 rows of columns cannot be split into 4 groups"):
        by_group(columns, 4)


@pytest.mark.parametrize(
    "size, window, expected",
    [
        ((227, 227), (11, 0, 4, 1), (55, 55)),  # AlexNet conv1
        ((27, 27), (5, 2, 1, 1), (27, 27)),  # AlexNet conv2
        ((224, 224), (7, 3, 2, 1), (112, 112)),  # GoogLeNet conv1: rounds 112.5 down
        ((14, 14), (3, 2, 1, 2), (14, 14)),  # dilated, as in fully convolutional nets
        ((9, 20), ((3, 5), (0, 2), (2, 3), (4, 1)), (1, 7)),
        ((5, 6), (8, 0, 4, 1), (1, 1)),  # (5 - 8) / 4 and (6 - 8) / 4 are 0 in C
    ],
)
def test_output_sizes_are_caffes(size, window, expected):
    assert output_size(size, *window) == expected


IMAGE = np.zeros((2, 5, 6), np.float32)
ILLEGAL = [
    ("kernel 0", dict(kernel=0), "height: kernel is 0, it must be 1 to"),
    ("kernel -3", dict(kernel=(3, -3)), "width: kernel is -3"),
    ("stride 0", dict(stride=(1, 0)), "width: stride is 0"),
    ("dilation 0", dict(dilation=0), "height: dilation is 0"),
    ("pad -1", dict(pad=-1), "height: pad is -1, it must be 0 to"),
    ("pad 2^70", dict(pad=2**70), "height: pad is 1180591620717411303424"),
    ("float kernel", dict(kernel=2.5), "kernel is 2.5, it must be a whole number"),
    ("word kernel", dict(kernel="big"), "kernel is 'big', it must be one number or"),
    ("three kernels", dict(kernel=(3, 3, 3)), r"kernel is \(3, 3, 3\), it must be one number"),
    ("large kernel", dict(kernel=(3, 7)), "width: kernel 7 with dilation 1 covers 7 values"),
    ("wide dilation", dict(dilation=3, pad=0), "covers 7 values, the input of 5 padded by 0"),
    ("huge columns", dict(pad=2**31 - 1), "too large to hold"),
    ("integers", dict(image=IMAGE.astype(int)), "image is int64, it must be float32 or float64"),
    ("half", dict(image=IMAGE.astype(np.float16)), "image is float16"),
    ("other byte order", dict(image=IMAGE.astype(">f4")), "image is >f4"),
    ("two axes", dict(image=IMAGE[0]), r"image has shape \(5, 6\), it must have 3 or 4 axes"),
    ("no values", dict(image=IMAGE[:0]), r"shape is \(0, 5, 6\), every size must be at least 1"),
    ("no threads", dict(threads=0), "threads is 0, it must be 1 to 256"),
    ("many threads", dict(threads=257), "threads is 257, it must be 1 to 256"),
    ("short out", dict(out=np.zeros((18, 11), np.float32)), r"must be float32 \(18, 12\)"),
    ("wrong out", dict(out=np.zeros((18, 12))), r"out is float64 \(18, 12\), it must be float32"),
    ("strided out", dict(out=np.zeros((18, 24), np.float32)[:, ::2]), "out must be C-contiguous"),
    ("frozen out", dict(out=np.broadcast_to(np.float32(0), (18, 12))), "out must be C-contiguous"),
]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("change, message", [c[1:] for c in ILLEGAL], ids=[c[0] for c in ILLEGAL])
def test_illegal_arguments_are_refused_by_name(name, change, message):
    arguments = dict(image=IMAGE, kernel=3, pad=0, stride=1, dilation=1)
    with backend(name), pytest.raises(SurgeryError, match=message):
        im2col(**{**arguments, **change})


@pytest.mark.parametrize("name", BACKENDS)
def test_columns_that_do_not_fit_the_image_are_refused(name):
    columns = im2col(IMAGE, 3)
    with backend(name):
        with pytest.raises(
            SurgeryError, match=r"columns are \(18, 11\); an image .* has \(18, 12\)"
        ):
            col2im(columns[:, :11], IMAGE.shape, 3)
        with pytest.raises(SurgeryError, match=r"shape is \(5, 6\), it must be \(C, H, W\)"):
            col2im(columns, (5, 6), 3)
        with pytest.raises(SurgeryError, match="out shares memory with the input"):
            col2im(columns, IMAGE.shape, 3, out=columns.reshape(-1)[:60].reshape(2, 5, 6))


WINDOW = ((3, 3), (0, 0), (1, 1), (1, 1))
COLUMNS = np.zeros((18, 12), np.float32)
FROZEN = np.broadcast_to(np.float32(0), COLUMNS.shape).copy()
FROZEN.flags.writeable = False
SHARED = np.zeros(300, np.float32)
UNALIGNED = np.zeros(COLUMNS.nbytes + 1, np.uint8)[1:].view(np.float32)


@needs_c
@pytest.mark.parametrize(
    "arguments, error",
    [
        ((), TypeError),
        ((IMAGE, COLUMNS), TypeError),
        ((None, COLUMNS, *WINDOW), TypeError),
        ((IMAGE, COLUMNS, (3,), *WINDOW[1:]), TypeError),
        ((IMAGE, COLUMNS, (3, "3"), *WINDOW[1:]), TypeError),
        ((IMAGE, COLUMNS, (3, 2**70), *WINDOW[1:]), OverflowError),
        ((IMAGE, COLUMNS, (3, 2**40), *WINDOW[1:]), OverflowError),
        ((IMAGE, COLUMNS, WINDOW[0], (2**62, 0), *WINDOW[2:]), OverflowError),
        ((IMAGE, COLUMNS, WINDOW[0], (2**31 - 1,) * 2, *WINDOW[2:]), OverflowError),
        ((IMAGE, COLUMNS, (0, 3), *WINDOW[1:]), ValueError),
        ((IMAGE, COLUMNS, *WINDOW, 0), ValueError),
        ((IMAGE, COLUMNS, *WINDOW, 257), ValueError),
        ((IMAGE, COLUMNS, *WINDOW, 2**70), OverflowError),
        ((IMAGE, COLUMNS, (-(2**63), 3), *WINDOW[1:]), ValueError),
        ((IMAGE, COLUMNS, (3, 7), *WINDOW[1:]), ValueError),
        ((IMAGE, COLUMNS, (3, 3), (-1, 0), (1, 1), (1, 1)), ValueError),
        ((IMAGE, COLUMNS, (3, 3), (0, 0), (0, 1), (1, 1)), ValueError),
        ((IMAGE, COLUMNS, (3, 3), (0, 0), (1, 1), (1, 2**31 - 1)), ValueError),
        ((IMAGE[0], COLUMNS, *WINDOW), ValueError),
        ((IMAGE[:0], COLUMNS[:0], *WINDOW), ValueError),
        ((IMAGE[:, :, ::2], COLUMNS, *WINDOW), ValueError),
        ((IMAGE, COLUMNS[:, :11].copy(), *WINDOW), ValueError),
        ((IMAGE, COLUMNS.astype(float), *WINDOW), ValueError),
        ((IMAGE.astype(np.int32), COLUMNS.astype(np.int32), *WINDOW), ValueError),
        ((IMAGE.astype(">f4"), COLUMNS, *WINDOW), ValueError),
        ((IMAGE, UNALIGNED, *WINDOW), ValueError),
        ((IMAGE, FROZEN, *WINDOW), (ValueError, BufferError)),
        ((SHARED[:60].reshape(2, 5, 6), SHARED[59:275], *WINDOW), ValueError),
    ],
)
def test_the_extension_survives_any_argument(arguments, error):
    with pytest.raises(error):
        COMPILED.im2col(*arguments)


@needs_c
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(-2, 9) | st.sampled_from([2**31 - 1, 2**31, 2**63 - 1])] * 2),
        min_size=4,
        max_size=4,
    ),
    st.integers(1, 400),
    st.integers(-1, 5),
)
def test_the_extension_writes_only_what_fits(window, length, threads):
    """Whatever the numbers: an exception, or columns of exactly the size that was given."""
    guarded = np.full(length + 32, 7, np.float32)
    try:
        COMPILED.im2col(IMAGE, guarded[16:-16], *window, threads)
    except (ValueError, OverflowError):
        assert np.all(guarded == 7)
    else:
        assert np.all(guarded[:16] == 7) and np.all(guarded[-16:] == 7)
        assert np.all(guarded[16:-16] == 0)
    guarded = np.full(IMAGE.size + 32, 7, np.float32)
    image = guarded[16:-16].reshape(IMAGE.shape)
    try:
        COMPILED.col2im(image, np.zeros(length, np.float32), *window, threads)
    except (ValueError, OverflowError):
        assert np.all(guarded == 7)
    else:
        assert np.all(guarded[:16] == 7) and np.all(guarded[-16:] == 7) and np.all(image == 0)


@needs_c
def test_other_threads_run_while_columns_are_made():
    """With a switch interval that never ends, a thread gets the GIL only from one that drops it."""
    image = np.random.default_rng(0).standard_normal((64, 112, 112)).astype(np.float32)
    expected = im2col(image, 3, 1)
    images = {name: image * scale for name, scale in (("a", 1), ("b", 2))}

    def work(name, out, events, barrier):
        barrier.wait()
        events.append("start")
        im2col(images[name], 3, 1, out=out[name])
        events.append("end")

    def overlap():
        events, barrier = [], threading.Barrier(2)
        out = {name: np.empty_like(expected) for name in images}
        threads = [threading.Thread(target=work, args=(n, out, events, barrier)) for n in images]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert np.array_equal(out["a"], expected)
        assert np.array_equal(out["b"], expected * 2)
        return events[:2] == ["start", "start"]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        assert any(overlap() for _ in range(20))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("pure", ["1", "0", ""])
def test_the_environment_can_ask_for_numpy(pure):
    built = importlib.util.find_spec("caffesurgery._im2col") is not None
    expected = "C" if built and pure != "1" else "NumPy"
    code = "from caffesurgery.cost import im2col; print(im2col.backend)"
    environment = {**os.environ, "CAFFESURGERY_PURE": pure, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


# Field of convolution_param, its spellings for one axis, its default.
WINDOW_FIELDS = [
    ("pad", "pad_h", "pad_w", 0),
    ("stride", "stride_h", "stride_w", 1),
    ("dilation", None, None, 1),
]


def axes(p, both, high, wide, default):
    """(height, width) of a field given once, per axis, or as _h and _w."""
    if high and (p.has(high) or p.has(wide)):
        return p[high], p[wide]
    values = list(p[both]) or [default]
    return values[0], values[-1]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", GOLDEN)
def test_convolution_by_columns_equals_caffe(name, case, shared):
    folder = shared("golden", case)
    weights = read(folder / "net.caffemodel")
    arrays = np.load(folder / "io.npz")
    layers = [v for v in read_net(folder / "net.prototxt").layers if v.type == "Convolution"]
    assert layers
    for layer in layers:
        p = layer.params("convolution_param")
        kernel, *bias = (blob.array() for blob in weights.blobs(layer.name))
        image = arrays[f"in:{layer.bottoms[0]}"]
        window = [axes(p, *spec) for spec in WINDOW_FIELDS]
        with backend(name):
            columns = by_group(im2col(image, kernel.shape[2:], *window), p["group"])
        weight = kernel.reshape(p["group"], kernel.shape[0] // p["group"], -1)
        expected = arrays[f"out:{layer.tops[0]}"]
        result = (weight @ columns).reshape(expected.shape)
        if bias:
            result = result + bias[0].reshape(-1, 1, 1)
        assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()


def test_every_golden_convolution_was_seen():
    if not shared_root().exists():
        pytest.skip("reference material not found (set CAFFESURGERY_SHARED)")
    assert len(GOLDEN) == 20
