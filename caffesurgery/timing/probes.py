"""Layers to measure a machine with: small nets that show every kind of work at several sizes.

The sizes are those that convolutional nets have, from a few thousand to a few hundred million
multiply-adds a layer, dense, grouped, depthwise and 1x1; each layer has an input of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..net.net import parse_net
from ..net.shapes import NetShapes, infer

Shape = Sequence[int]

# channels, size, outputs, (kernel height, width), stride, pads, groups
_DENSE = (
    (3, 227, 96, 11, 4, 0, 1), (3, 224, 64, 7, 2, 3, 1), (3, 224, 64, 3, 1, 1, 1),
    (64, 56, 192, 3, 1, 1, 1), (128, 56, 128, 3, 1, 1, 1), (64, 112, 64, 3, 1, 1, 1),
    (128, 28, 192, 3, 1, 1, 1), (256, 28, 256, 3, 1, 1, 1), (96, 14, 208, 3, 1, 1, 1),
    (512, 14, 512, 3, 1, 1, 1), (256, 13, 384, 3, 1, 1, 1), (160, 7, 320, 3, 1, 1, 1),
    (16, 28, 32, 5, 1, 2, 1), (48, 14, 128, 5, 1, 2, 1), (96, 27, 256, 5, 1, 2, 2),
    (384, 13, 256, 3, 1, 1, 2), (32, 56, 32, 3, 1, 1, 1), (128, 56, 64, 3, 2, 1, 1),
    (64, 224, 16, 3, 1, 1, 1), (32, 112, 48, (3, 1), 1, (1, 0), 1),
    (3, 227, 25, 11, 4, 0, 1), (64, 56, 40, (1, 3), 1, (0, 1), 1), (3, 227, 69, 11, 4, 0, 1),
    (64, 224, 50, 3, 1, 1, 1), (128, 112, 75, 3, 1, 1, 1), (96, 27, 154, 5, 1, 2, 2),
    (256, 56, 65, 3, 1, 1, 1), (512, 28, 92, 3, 1, 1, 1), (3, 224, 35, 7, 2, 3, 1),
    (1, 28, 20, 5, 1, 0, 1), (20, 12, 50, 5, 1, 0, 1), (105, 13, 112, 3, 1, 1, 1),
    (18, 112, 34, 3, 1, 1, 1), (50, 56, 42, 3, 1, 1, 1), (139, 28, 130, 3, 1, 1, 1),
    (163, 14, 163, 3, 1, 1, 1),
)  # fmt: skip
_POINTWISE = (
    (64, 56, 64, 1, 1, 0, 1), (256, 56, 64, 1, 1, 0, 1), (64, 56, 256, 1, 1, 0, 1),
    (192, 28, 96, 1, 1, 0, 1), (480, 14, 192, 1, 1, 0, 1), (512, 28, 128, 1, 1, 0, 1),
    (832, 7, 256, 1, 1, 0, 1), (512, 7, 2048, 1, 1, 0, 1), (50, 55, 96, 1, 1, 0, 1),
    (40, 112, 64, 1, 1, 0, 1), (16, 224, 64, 1, 1, 0, 1), (64, 224, 16, 1, 1, 0, 1),
    (3, 227, 50, 1, 1, 0, 1), (96, 27, 154, 1, 1, 0, 2), (154, 27, 256, 1, 1, 0, 2),
    (153, 13, 384, 1, 1, 0, 1), (256, 13, 100, 1, 1, 0, 1), (24, 14, 48, 1, 1, 0, 1),
    (256, 56, 512, 1, 2, 0, 1), (32, 28, 16, 1, 1, 0, 1), (35, 14, 208, 1, 1, 0, 1),
    (50, 224, 64, 1, 1, 0, 1), (3, 224, 35, 1, 1, 0, 1), (128, 112, 75, 1, 1, 0, 1),
    (69, 55, 96, 1, 1, 0, 1), (51, 112, 128, 1, 1, 0, 1), (34, 14, 256, 1, 1, 0, 1),
)  # fmt: skip
_DEPTHWISE = (
    (50, 227, 50, 11, 4, 0, 50), (154, 27, 154, 5, 1, 2, 154), (150, 13, 150, 3, 1, 1, 150),
    (64, 56, 64, 3, 1, 1, 64), (35, 28, 35, 3, 1, 1, 35), (100, 28, 100, 3, 1, 1, 100),
    (35, 14, 35, 3, 1, 1, 35), (36, 7, 36, 3, 1, 1, 36), (32, 112, 32, 3, 1, 1, 32),
    (16, 224, 16, (3, 1), 1, (1, 0), 16), (50, 227, 50, (11, 1), (4, 1), 0, 50),
    (60, 56, 60, (1, 3), 1, (0, 1), 60), (200, 14, 200, (3, 1), 1, (1, 0), 200),
    (16, 224, 16, (1, 3), 1, (0, 1), 16),
    (50, 112, 50, 3, 1, 1, 50), (41, 56, 41, 3, 1, 1, 41), (22, 224, 22, 3, 1, 1, 22),
    (99, 28, 99, 3, 1, 1, 99), (50, 224, 50, 3, 1, 1, 50), (69, 56, 69, (3, 1), 1, (1, 0), 69),
)  # fmt: skip
# inputs, outputs, items
_MATRICES = (
    (9216, 4096, 1), (4096, 4096, 1), (4096, 1000, 1), (9216, 365, 1), (365, 4096, 1),
    (4096, 270, 1), (270, 4096, 1), (260, 1000, 1), (1024, 1000, 1), (500, 10, 1), (2048, 1000, 8),
    (512, 500, 64), (800, 500, 1), (25088, 162, 1), (162, 4096, 1),
)  # fmt: skip
# shape, method, kernel, stride, pad
_POOLS = (
    ((96, 55, 55), "MAX", 3, 2, 0), ((64, 112, 112), "MAX", 3, 2, 0),
    ((64, 224, 224), "MAX", 2, 2, 0), ((192, 28, 28), "MAX", 3, 1, 1),
    ((480, 14, 14), "MAX", 3, 1, 1), ((256, 13, 13), "MAX", 3, 2, 0), ((832, 7, 7), "MAX", 3, 1, 1),
    ((512, 14, 14), "MAX", 2, 2, 0), ((256, 28, 28), "MAX", 2, 2, 0),
    ((20, 24, 24), "MAX", 2, 2, 0), ((50, 8, 8), "MAX", 2, 2, 0), ((1024, 7, 7), "AVE", 7, 1, 0),
    ((64, 28, 28), "AVE", 3, 2, 0), ((96, 14, 14), "AVE", 2, 2, 0),
    ((512, 14, 14), "AVE", 14, 1, 0),
)  # fmt: skip
_MAPS = ((4096,), (32, 14, 14), (96, 27, 27), (96, 55, 55), (64, 112, 112), (64, 224, 224))
_SIMPLE = (
    ("ReLU", "", 6), ("Sigmoid", "", 4), ("BatchNorm", "", 5),
    ("Scale", "scale_param { bias_term: true }", 5), ("LRN", "lrn_param { local_size: 5 }", 5),
    ("Softmax", "", 2),
)  # fmt: skip


def probe_nets(quick: bool = False) -> Iterator[NetShapes]:
    """The nets to time, one after the other; about half of their layers with ``quick``."""
    for layers, twice in _groups(quick):
        yield infer(parse_net(_text(layers, twice)), "TEST")


def single_nets(quick: bool = False) -> Iterator[str]:
    """The same layers as the text of one net each, the layer last."""
    for layers, twice in _groups(quick):
        for layer in layers:
            yield _text([layer], twice, alone=True)


def _groups(quick: bool) -> Iterator[tuple[list[tuple[Shape, str]], bool]]:
    """Layers that go into one net, as (shape for one item, text), and whether they read two."""
    step = 2 if quick else 1
    for group in (_DENSE, _POINTWISE, _DEPTHWISE):
        yield [_convolution(row, at % 2 == 1) for at, row in enumerate(group[::step])], False
    yield [_matrix(row) for row in _MATRICES[::step]], False
    yield [_pool(row) for row in _POOLS[::step]], False
    simple = [
        (shape, f'type: "{kind}" {params}')
        for kind, params, most in _SIMPLE
        for shape in ((1000,), (10,)) * (kind == "Softmax") or _MAPS[1:most:step] + _MAPS[:1]
        if len(shape) > 1 or kind in ("ReLU", "Softmax")
    ]
    yield simple, False
    yield [(shape, kind) for shape in _MAPS[1:5:step] for kind in _JOINING], True


BEFORE = "before "
"""How names of layers begin that only write what a probe reads."""
_JOINING = ('type: "Concat"', 'type: "Eltwise"', 'type: "Eltwise" eltwise_param { operation: MAX }')


def _text(layers: Sequence[tuple[Shape, str]], twice: bool, alone: bool = False) -> str:
    """A net with an input for each layer, or two.

    Not ``alone``, a layer reads what the one before it has just written, and its top is read at
    once, so that their memory is used again: as in a net of one chain, and in the same caches.
    """
    text = ['name: "probe"']
    for index, (shape, words) in enumerate(layers):
        items, *rest = shape if len(shape) in (2, 4) else (1, *shape)
        dims = " ".join(f"dim: {dim}" for dim in (items, *rest))
        fed = ""
        for name in [f"x{index}", f"y{index}"][: 1 + twice]:
            text.append(
                f'layer {{ name: "{name}" type: "Input" top: "{name}" '
                f"input_param {{ shape {{ {dims} }} }} }}"
            )
            if not alone:
                text.append(f'layer {{ name: "{BEFORE}{name}" type: "AbsVal" bottom: "{name}" '
                            f'top: "{BEFORE}{name}" }}')  # fmt: skip
            fed += f'bottom: "{name if alone else BEFORE + name}" '
        text.append(f'layer {{ name: "l{index}" {fed} top: "t{index}" {words} }}')
        if not alone:
            text.append(f'layer {{ name: "s{index}" type: "Silence" bottom: "t{index}" }}')
    return "\n".join(text)


def _pair(value) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _convolution(row, bias: bool) -> tuple[Shape, str]:
    """As many with as without a bias: else the two writes of a map could not be told apart."""
    channels, size, outputs, kernel, stride, pad, group = row
    axes = {"kernel": _pair(kernel), "stride": _pair(stride), "pad": _pair(pad)}
    window = " ".join(f"{name}_h: {h} {name}_w: {w}" for name, (h, w) in axes.items())
    return (channels, size, size), (
        f'type: "Convolution" convolution_param {{ num_output: {outputs} group: {group} {window} '
        f"bias_term: {str(bias).lower()} }}"
    )


def _matrix(row) -> tuple[Shape, str]:
    inputs, outputs, items = row
    return (items, inputs), (
        f'type: "InnerProduct" inner_product_param {{ num_output: {outputs} }}'
    )


def _pool(row) -> tuple[Shape, str]:
    shape, method, kernel, stride, pad = row
    return shape, (
        f'type: "Pooling" pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride} '
        f"pad: {pad} }}"
    )
