"""Turns the parts of a scheme into the layers that take the place of one layer of a net.

New layers are named after the old one (`conv2` becomes `conv2_s`, `conv2_dd`, `conv2_t`), blobs
between them after the layer that makes them; the last one keeps the old top and the bias.  Stride,
padding and dilation go to the parts that the scheme says.  Of a fully connected layer the last part
is an InnerProduct again, so that the shape of the top stays what it was.
"""

from __future__ import annotations

from dataclasses import replace

from ..decompose import Geometry, Part
from ..net.net import Layer, ParamSpec
from .statement import SmallLayer
from .target import Target

_RULES = ("include", "exclude", "phase", "propagate_down")
_FILLERS = ("weight_filler", "bias_filler")
_EXTRA = ("engine", "force_nd_im2col")
_RATES = frozenset(("lr_mult", "decay_mult"))
_KNOWN = {
    "name", "type", "bottom", "top", "param", "blobs_lr", "weight_decay", "blobs", "layer",
    "loss_weight", "convolution_param", "inner_product_param", "blob_share_mode", *_RULES,
}  # fmt: skip


def small_layers(
    found: Target, geometry: Geometry, parts: tuple[Part, ...], freeze: bool = False
) -> tuple[SmallLayer, ...]:
    """The layers that replace ``found`` where it stands, in order; not trained with ``freeze``."""
    layer, made, bottoms = found.layer, [], found.layer.bottoms
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        name = layer.name + part.suffix
        tops = layer.tops if last else _between(name, len(layer.tops))
        made.append(
            SmallLayer(
                name=name,
                type=_type(geometry, found, last),
                bottoms=bottoms,
                tops=tops,
                num_output=part.out,
                bias=last and found.bias,
                kernel=(part.kh, part.kw),
                group=part.group,
                specs=_specs(layer, part.suffix, last, 1 + (last and found.bias), freeze),
                fillers=filler_statements(layer, bias=last and found.bias),
                extra=extra_statements(layer) if geometry.kind == "conv" else (),
                rules=rule_statements(layer),
                **_window(found, part),
            )
        )
        bottoms = tops
    return tuple(made)


def unmoved_fields(layer: Layer) -> list[str]:
    """Fields of the layer that its replacement does not carry (a fork's own, or a loss weight)."""
    return sorted({name for name in layer.field.value.names() if name not in _KNOWN})


def _between(name: str, count: int) -> tuple[str, ...]:
    """One blob for each top of the layer: a layer may be applied to several bottoms at once."""
    return tuple(name if k == 0 else f"{name}_{k}" for k in range(count))


def _type(geometry: Geometry, found: Target, last: bool) -> str:
    if geometry.kind == "conv":
        return "Convolution"
    return "InnerProduct" if last or geometry is not found.spatial else "Convolution"


def _window(found: Target, part: Part) -> dict:
    """Padding, stride and dilation on the axes that the part takes, the defaults on the others."""

    def pick(pair, default):
        return (
            pair[0] if "h" in part.axes else default,
            pair[1] if "w" in part.axes else default,
        )

    return {
        "pad": pick(found.pad, 0),
        "stride": pick(found.stride, 1),
        "dilation": pick(found.dilation, 1),
    }


def _specs(
    layer: Layer, suffix: str, last: bool, blobs: int, freeze: bool
) -> tuple[ParamSpec, ...]:
    """Learning rates as they were, or 0; a shared weight gets one shared name for each part."""
    specs = tuple(
        replace(spec, name=spec.name + suffix) if spec.name and k == 0 else spec
        for k, spec in enumerate(layer.specs[: 2 if last else 1])
    )
    if not freeze:
        return specs
    specs += (ParamSpec(),) * (blobs - len(specs))
    return tuple(replace(one, lr_mult=0.0, decay_mult=0.0, given=_RATES) for one in specs)


def filler_statements(layer: Layer, bias: bool) -> tuple[str, ...]:
    """How the weights, and the bias if there is one, are filled before training; word for word."""
    return _inner_statements(layer, _FILLERS[: 2 if bias else 1])


def extra_statements(layer: Layer) -> tuple[str, ...]:
    """Parameters that every layer of the chain takes over word for word (the engine)."""
    return () if layer.dialect == "V0" else _inner_statements(layer, _EXTRA)


def rule_statements(layer: Layer) -> tuple[str, ...]:
    """When the layer is part of the net (phase, include, exclude), word for word."""
    return _statements(layer, layer.field.value, _RULES)


def _inner_statements(layer: Layer, names: tuple[str, ...]) -> tuple[str, ...]:
    conv = layer.type == "Convolution"
    inner = "convolution_param" if conv else "inner_product_param"
    message = layer.field.value.last("layer" if layer.dialect == "V0" else inner)
    return _statements(layer, message, names) if message else ()


def _statements(layer: Layer, message, names: tuple[str, ...]) -> tuple[str, ...]:
    fields = [field for name in names for field in message.fields_named(name)]
    return tuple(layer.doc.statement(field) for field in fields)
