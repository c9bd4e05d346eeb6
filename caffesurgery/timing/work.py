"""The kinds of work that a forward pass is made of, and what each of them amounts to.

A ``Work`` is one piece: a matrix product of some size, so many elements of columns, so many windows
of a pooling, done ``calls`` times.  A profile says how long each kind takes (``profile.py``).  The
kinds follow what Caffe does (base_conv_layer, inner_product_layer ...; paper 000, appendix).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import SurgeryError


class Kind(NamedTuple):
    """What a kind of work is.

    sizes: names of the numbers that say how large a piece is
    features: names of the amounts that its time may depend on; each is the product of the sizes
        named (``mac`` of a product is m n k), and none of them is one call
    instead: the kind whose speed stands in where a profile lacks this one
    """

    about: str
    sizes: tuple[str, ...]
    features: Mapping[str, tuple[str, ...]]
    instead: str = ""


_PRODUCT = {"call": (), "mac": ("m", "n", "k"), "a": ("m", "k"), "b": ("k", "n"), "c": ("m", "n")}
_ELEMENTS = {"call": (), "element": ("elements",)}
_POOL = {"call": (), "tap": ("taps",), "output": ("outputs",), "input": ("inputs",)}


def _each(about: str, instead: str = "") -> Kind:
    return Kind(about, ("elements",), _ELEMENTS, instead)


KINDS: dict[str, Kind] = {
    "layer": Kind("what calling a layer costs by itself", (), {"call": ()}),
    "gemm": Kind("product (m x k)(k x n), m and n above 1", ("m", "n", "k"), _PRODUCT),
    "thin": Kind(
        "product (1 x k)(k x n): a group of a depthwise convolution",
        ("m", "n", "k"), _PRODUCT, "gemm",
    ),
    "gemv": Kind(
        "matrix (m x k), m above 1, times a vector: a fully connected layer over one image",
        ("m", "n", "k"), _PRODUCT, "gemm",
    ),
    "im2col": _each("columns written for one image"),
    "col2im": _each("columns added up to one image", "im2col"),
    "bias": _each("a term for each channel added to a map", "relu"),
    "relu": _each("rectifiers and the like: one comparison an element"),
    "exp": _each("sigmoid, tanh, powers: one function of the maths library an element", "softmax"),
    "copy": _each("elements moved: Concat, Slice, Crop", "relu"),
    "scale": _each("factors and terms for each channel: Scale, Bias", "relu"),
    "batchnorm": _each("BatchNorm with stored statistics", "scale"),
    "eltwise": _each("elements read by sums, products and maxima of blobs", "relu"),
    "softmax": _each("Softmax and losses", "exp"),
    "max_pool": Kind(
        "maxima over windows", ("taps", "outputs", "inputs"), _POOL, "ave_pool"
    ),
    "ave_pool": Kind(
        "means over windows", ("taps", "outputs", "inputs"), _POOL, "max_pool"
    ),
    "lrn": Kind(
        "local response normalisation across channels",
        ("elements", "size"), {"call": (), "element": ("elements",), "tap": ("elements", "size")},
    ),
    "conv": Kind(
        "a whole convolution of one image, in runtimes that write no columns",
        ("m", "n", "k", "group"),
        {"call": (), "mac": ("m", "n", "k", "group"), "weights": ("m", "k", "group"),
         "columns": ("k", "n", "group"), "output": ("m", "n", "group")}, "gemm",
    ),
    "depthwise": Kind(
        "a convolution with as many groups as channels, in such runtimes",
        ("n", "k", "group"),
        {"call": (), "mac": ("n", "k", "group"), "output": ("n", "group"), "map": ("group",)},
        "conv",
    ),
    "ragged": Kind(
        "the same with a number of channels that is no multiple of 8",
        ("n", "k", "group"),
        {"call": (), "mac": ("n", "k", "group"), "output": ("n", "group"), "map": ("group",)},
        "depthwise",
    ),
    "reorder": _each("elements between maps by pixels and by blocks of channels", "copy"),
}  # fmt: skip
"""Every kind of work.  ``n`` is pixels, ``m`` outputs and ``k`` inputs times kernel, of a group."""


@dataclass(frozen=True)
class Work:
    """``calls`` times one piece of work of a ``kind``, each of these sizes (see ``KINDS``)."""

    kind: str
    calls: int
    sizes: Mapping[str, int]

    def amount(self, feature: str) -> int:
        """The amount of a feature over all calls: products of sizes, times ``calls``."""
        total = self.calls
        for name in KINDS[self.kind].features[feature]:
            total *= self.sizes[name]
        return total


def work(kind: str, calls: int = 1, **sizes: int) -> Work:
    """A piece of work; SurgeryError where the kind takes other sizes."""
    if kind not in KINDS or set(sizes) != set(KINDS[kind].sizes):
        wanted = ", ".join(KINDS[kind].sizes) if kind in KINDS else "one of " + ", ".join(KINDS)
        raise SurgeryError(f"work '{kind}' with sizes {sorted(sizes)}; expected {wanted}")
    return Work(kind, calls, sizes)


def product(m: int, n: int, k: int, calls: int = 1) -> Work:
    """A matrix product (m x k)(k x n), under the kind that it belongs to."""
    kind = "thin" if m == 1 else "gemv" if n == 1 else "gemm"
    return work(kind, calls, m=m, n=n, k=k)
