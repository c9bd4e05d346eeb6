"""Old nets seen as new ones: V0 and V1 layers as V2 messages, without touching the text.

The V2 messages are synthetic, but their nodes point at the places in the old text, so that an
error about one of them names a true line.  Follows Caffe's own upgrade (upgrade_proto.cpp): V1
enum types, ``blobs_lr``, ``weight_decay``, ``param`` names and share modes become types and
``param`` messages; transformations move from the data layers' parameters to ``transform_param``;
V0 fields move to the parameters of their layer type, and padding layers into the layers behind.
"""

from __future__ import annotations

from ..errors import NetError
from ..files.dialects import V0_TYPES, V1_TYPES
from ..files.schema import load_schema
from ..files.text import Document, Field, Message, Scalar, quote

_CONV = {"conv": "convolution_param"}
_POOL = {"pool": "pooling_param"}
_MATRIX = {**_CONV, "innerproduct": "inner_product_param"}
_SLIDING = {**_CONV, **_POOL}
_LRN = {"lrn": "lrn_param"}
_IMAGES = {"images": "image_data_param"}
_WINDOWS = {"window_data": "window_data_param"}
_SOURCES = {"data": "data_param", "hdf5_data": "hdf5_data_param", **_IMAGES, **_WINDOWS}
_ANY = dict.fromkeys(V0_TYPES, "transform_param")

# V0 field -> (its later name, the message that has it for each V0 type).
_V0_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _MATRIX),
    "biasterm": ("bias_term", _MATRIX),
    "weight_filler": ("weight_filler", _MATRIX),
    "bias_filler": ("bias_filler", _MATRIX),
    "pad": ("pad", _SLIDING),
    "kernelsize": ("kernel_size", _SLIDING),
    "group": ("group", _CONV),
    "stride": ("stride", _SLIDING),
    "pool": ("pool", _POOL),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", _LRN),
    "alpha": ("alpha", _LRN),
    "beta": ("beta", _LRN),
    "k": ("k", _LRN),
    "source": ("source", {**_SOURCES, "infogain_loss": "infogain_loss_param"}),
    "batchsize": ("batch_size", _SOURCES),
    "scale": ("scale", _ANY),
    "meanfile": ("mean_file", _ANY),
    "cropsize": ("crop_size", _ANY),
    "mirror": ("mirror", _ANY),
    "rand_skip": ("rand_skip", {"data": "data_param", **_IMAGES}),
    "shuffle_images": ("shuffle", _IMAGES),
    "new_height": ("new_height", _IMAGES),
    "new_width": ("new_width", _IMAGES),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", _WINDOWS),
    "det_bg_threshold": ("bg_threshold", _WINDOWS),
    "det_fg_fraction": ("fg_fraction", _WINDOWS),
    "det_context_pad": ("context_pad", _WINDOWS),
    "det_crop_mode": ("crop_mode", _WINDOWS),
}

_TRANSFORMED = {"Data": "data_param", "ImageData": "image_data_param"}
_TRANSFORMED["WindowData"] = "window_data_param"
_TRANSFORMATIONS = ("scale", "mean_file", "crop_size", "mirror")
_SPECS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


def is_v0(message: Message) -> bool:
    """Whether a ``layers`` message wraps a V0 ``layer``."""
    return isinstance(message.last("layer"), Message)


def v1_as_v2(message: Message, doc: Document) -> Message:
    """The V2 view of a V1 ``layers`` message."""
    kind, fields = "", []
    for field in message.fields:
        if field.name == "type":
            kind = _v1_type(field, doc)
            fields.append(_text_field("type", kind, field))
        elif field.name not in _SPECS:
            fields.append(field)
    fields += _specs(message, doc)
    if kind in _TRANSFORMED:
        fields = _move_transformations(fields, _TRANSFORMED[kind], doc)
    return Message(fields, message.start, message.end, doc)


def _v1_type(field: Field, doc: Document) -> str:
    """The V2 name of an enum value, given by name or number; a fork's own name stays as it is."""
    value = field.value
    if not isinstance(value, Scalar) or value.kind == "string":
        raise NetError(
            f"{doc.where(field)}: type is {getattr(value, 'raw', 'a message')} in a 'layers' "
            "statement, expected an enum such as CONVOLUTION; names in quotes go with 'layer'"
        )
    if value.kind == "word":
        return V1_TYPES.get(value.raw, value.raw)
    numbers = load_schema().enums["V1LayerParameter.LayerType"]
    names = [name for name, number in numbers.items() if number == value.number()]
    return V1_TYPES[names[0]] if names else value.raw


def _specs(message: Message, doc: Document) -> list[Field]:
    """The ``param`` messages that a V1 layer's lists of names and multipliers amount to."""
    specs: list[Message] = []
    for old, new in _SPECS.items():
        values = message.all(old)
        for value in values[len(specs) :]:
            specs.append(Message([], value.start, value.start, doc))
        for spec, value in zip(specs, values):
            spec.fields.append(Field(new, value.start, value.start, value))
    return [Field("param", spec.start, spec.start, spec) for spec in specs]


def _move_transformations(fields: list[Field], param: str, doc: Document) -> list[Field]:
    """Scale, mean, crop and mirror of a V1 data layer, moved to its ``transform_param``."""
    moved: dict[str, Field] = {}
    kept = []
    for field in fields:
        if field.name == param and isinstance(field.value, Message):
            inside = field.value
            moved.update((f.name, f) for f in inside.fields if f.name in _TRANSFORMATIONS)
            rest = [f for f in inside.fields if f.name not in _TRANSFORMATIONS]
            field = Field(param, field.start, field.end, _like(inside, rest, doc))
        kept.append(field)
    if not moved:
        return fields
    transforms = [f for f in kept if f.name == "transform_param" and isinstance(f.value, Message)]
    inherited = [f for old in transforms for f in old.value.fields if f.name not in moved]
    start = next(iter(moved.values())).start
    merged = Message([*inherited, *moved.values()], start, start, doc)
    others = [field for field in kept if field.name != "transform_param"]
    return [*others, Field("transform_param", start, start, merged)]


def v0_as_v2(connection: Message, doc: Document, warnings: list[str]) -> Message:
    """The V2 view of a ``layers`` message around a V0 ``layer``.

    A field that does not belong to the layer's type is left out and named in ``warnings``, as Caffe
    does.
    """
    layer = connection.last("layer")
    kind = v0_type(layer)
    fields = [field for field in connection.fields if field.name in ("bottom", "top")]
    grouped: dict[str, list[Field]] = {}
    for field in layer.fields:
        if field.name == "type":
            fields.append(_text_field("type", V0_TYPES.get(kind, kind), field))
        elif field.name in _V0_FIELDS:
            name, homes = _V0_FIELDS[field.name]
            if kind in homes:
                new = Field(name, field.start, field.end, field.value)
                grouped.setdefault(homes[kind], []).append(new)
            else:
                warnings.append(
                    f"{doc.where(field)}: a layer of type '{kind}' has no {field.name}; ignored"
                )
        elif field.name not in _SPECS:
            fields.append(field)
    for name, inside in grouped.items():
        start = inside[0].start
        fields.append(Field(name, start, start, Message(inside, start, start, doc)))
    return Message(fields + _specs(layer, doc), connection.start, connection.end, doc)


def v0_type(layer: Message) -> str:
    """The type of a V0 ``layer`` message as it is written."""
    value = layer.last("type")
    return value.string() if isinstance(value, Scalar) and value.kind == "string" else ""


def fold_padding(entries: list[Field], doc: Document) -> list[tuple[Field, Message]]:
    """The ``layers`` statements of a V0 net without its padding layers.

    Each comes with its message; the conv or pool layer behind a padding layer gets its ``pad`` and
    its bottom.
    """
    makers: dict[str, Message] = {}
    result = []
    for entry in entries:
        message = entry.value
        inside = message.last("layer") if is_v0(message) else None
        padding = inside is not None and v0_type(inside) == "padding"
        sources = [makers.get(_string(bottom)) for bottom in message.all("bottom")]
        if inside is not None and not padding and any(source is not None for source in sources):
            message = _padded(entry, inside, sources, doc)
        if not padding:
            result.append((entry, message))
        for top in message.all("top"):
            makers[_string(top)] = message if padding else None
    return result


def _padded(entry: Field, layer: Message, sources: list, doc: Document) -> Message:
    """A V0 conv or pool layer with the padding layer in front of it folded in."""
    source = sources[0]
    kind = v0_type(layer)
    if kind not in _SLIDING or len(sources) != 1 or len(source.all("bottom")) != 1:
        raise NetError(
            f"{doc.where(entry)}: a padding layer can only stand before one conv or pool layer "
            f"with a single bottom, met type '{kind}' with {len(sources)}; write pad there"
        )
    pads = source.last("layer").fields_named("pad")
    inside = [field for field in layer.fields if field.name != "pad"] + pads
    fields = [field for field in entry.value.fields if field.name not in ("layer", "bottom")]
    fields += source.fields_named("bottom")
    fields.append(Field("layer", layer.start, layer.end, _like(layer, inside, doc)))
    return _like(entry.value, fields, doc)


def _string(value: Scalar | Message) -> str:
    return value.string() if isinstance(value, Scalar) and value.kind == "string" else ""


def _like(message: Message, fields: list[Field], doc: Document) -> Message:
    return Message(fields, message.start, message.end, doc)


def _text_field(name: str, text: str, origin: Field) -> Field:
    """A string field that stands in for ``origin`` and points at its place."""
    return Field(name, origin.start, origin.end, Scalar("string", quote(text), origin.start))
