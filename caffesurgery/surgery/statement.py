"""Writes a layer as prototxt, in the dialect of its file (V2 `layer`, V1 or V0 `layers`).

In: a ``SmallLayer``, which says everything about one layer of a replacement.  Out: its statement as
text, indented and ended like the statement that it takes the place of.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import PlanError
from ..files.dialects import type_word
from ..files.text import quote
from ..net.net import ParamSpec

Pair = tuple[int, int]
_RATES = ("lr_mult", "decay_mult")


@dataclass(frozen=True)
class SmallLayer:
    """A Convolution or InnerProduct to be written.

    ``kernel``, ``pad``, ``stride`` and ``dilation`` are (height, width); ``specs`` are the learning
    rates and shared names of its blobs; ``fillers`` and ``extra`` are statements taken over word by
    word (``weight_filler {...}``, ``engine: CAFFE``), ``rules`` likewise on the level of the layer
    (``include {...}``).
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    num_output: int
    bias: bool
    kernel: Pair = (1, 1)
    pad: Pair = (0, 0)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    group: int = 1
    specs: tuple[ParamSpec, ...] = ()
    fillers: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    rules: tuple[str, ...] = field(default=())


def statements(layers, dialect: str, indent: str, unit: str, newline: str) -> str:
    """The statements of ``layers`` one after the other.

    The first line carries no indentation, since it starts where the old statement started; a line
    end follows all but the last.
    """
    blocks = []
    for layer in layers:
        keyword, fields = _WRITERS[dialect](layer)
        lines = _render([(keyword, fields)], indent, unit)
        blocks.append("\n".join(lines))
    return "\n".join(blocks)[len(indent) :].replace("\n", newline)


def _render(fields, indent: str, unit: str) -> list[str]:
    """Lines of a list of (name, value) pairs; a list as value is a message, no name is raw text."""
    lines = []
    for name, value in fields:
        if not name:
            lines.append(f"{indent}{value}".replace("\r\n", "\n"))
        elif isinstance(value, list):
            lines.append(f"{indent}{name} {{")
            lines += _render(value, indent + unit, unit)
            lines.append(f"{indent}}}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


def _v2(layer: SmallLayer):
    fields = _head(layer, f'"{layer.type}"')
    for spec in layer.specs:
        named = [("name", quote(spec.name))] if spec.name else []
        rates = [(rate, f"{getattr(spec, rate):g}") for rate in _RATES if rate in spec.given]
        fields.append(("param", named + rates))
    return "layer", fields + [_parameters(layer)]


def _v1(layer: SmallLayer):
    fields = _head(layer, type_word(layer.type, "V1"))
    fields += [("param", quote(spec.name)) for spec in layer.specs if spec.name]
    return "layers", fields + _rates(layer) + [_parameters(layer)]


def _v0(layer: SmallLayer):
    kind = type_word(layer.type, "V0")
    fields = [("name", quote(layer.name)), ("type", f'"{kind}"'), ("num_output", layer.num_output)]
    if not layer.bias:
        fields.append(("biasterm", "false"))
    if layer.type == "Convolution":
        for name, pair, default in (
            ("kernelsize", layer.kernel, 0),
            ("pad", layer.pad, 0),
            ("stride", layer.stride, 1),
        ):
            if pair[0] != pair[1]:
                raise PlanError(
                    f"layer '{layer.name}': {name} {pair[0]} x {pair[1]} cannot be written in the "
                    "oldest prototxt dialect, which knows only square windows; bring the file up "
                    "to date with Caffe's upgrade_net_proto_text first"
                )
            if pair[0] != default:
                fields.append((name, pair[0]))
        if layer.group != 1:
            fields.append(("group", layer.group))
    fields += [("", filler) for filler in layer.fillers] + _rates(layer)
    names = [(word, quote(blob)) for word, blob in _blobs(layer)]
    return "layers", [("layer", fields)] + names


_WRITERS = {"V2": _v2, "V1": _v1, "V0": _v0}


def _head(layer: SmallLayer, kind: str):
    fields = [("name", quote(layer.name)), ("type", kind)]
    fields += [(word, quote(blob)) for word, blob in _blobs(layer)]
    return fields + [("", rule) for rule in layer.rules]


def _blobs(layer: SmallLayer):
    return [("bottom", blob) for blob in layer.bottoms] + [("top", blob) for blob in layer.tops]


def _rates(layer: SmallLayer):
    """Learning rates of the old dialects: two lists, one entry for each blob."""
    lists = zip(("blobs_lr", "weight_decay"), _RATES)
    return [
        (word, f"{getattr(spec, rate):g}")
        for word, rate in lists
        if any(rate in spec.given for spec in layer.specs)
        for spec in layer.specs
    ]


def _parameters(layer: SmallLayer):
    fields: list = [("num_output", layer.num_output)]
    if not layer.bias:
        fields.append(("bias_term", "false"))
    if layer.type == "Convolution":
        fields += _window("kernel", layer.kernel, None) + _window("pad", layer.pad, 0)
        fields += _window("stride", layer.stride, 1)
        if layer.dilation != (1, 1):
            equal = layer.dilation[0] == layer.dilation[1]
            fields += [("dilation", d) for d in (layer.dilation[:1] if equal else layer.dilation)]
        if layer.group != 1:
            fields.append(("group", layer.group))
    fields += [("", statement) for statement in layer.fillers + layer.extra]
    name = "convolution_param" if layer.type == "Convolution" else "inner_product_param"
    return name, fields


def _window(name: str, pair: Pair, default: int | None):
    if pair == (default, default):
        return []
    if pair[0] == pair[1]:
        return [("kernel_size" if name == "kernel" else name, pair[0])]
    return [(f"{name}_h", pair[0]), (f"{name}_w", pair[1])]
