"""A Caffe net as its prototxt says it: layers of any dialect as V2 views, phases and rules.

A document goes in; a ``Net`` comes out whose layers keep their statement in the text.  Which layers
take part in a phase follows Caffe's Net::FilterNet; ``input`` fields become an Input layer and old
dialects V2 as in Caffe's upgrade.  Nothing is resolved here, so fragments of nets can be read too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..errors import NetError
from ..files import text
from ..files.schema import load_schema
from ..files.text import Document, Field, Message, quote
from . import upgrade
from .kinds import refuse_other_kinds
from .layers.base import MaybeShape
from .params import Params, check_known

_BATCH_NORM_BLOBS = 3


@dataclass(frozen=True)
class ParamSpec:
    """What a layer says about one of its parameter blobs.

    ``given`` holds the names of the fields that the text sets; ``share_mode`` is STRICT or
    PERMISSIVE.
    """

    name: str = ""
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    share_mode: str = "STRICT"
    given: frozenset[str] = frozenset()


class Layer:
    """One layer in its V2 form.

    ``message`` is the V2 view (the text's own message where the file is V2), ``field`` the
    statement as it stands in the file.  An implicit Input layer points at the first ``input``.
    """

    def __init__(self, message: Message, field: Field, dialect: str, doc: Document):
        self.message = message
        self.field = field
        self.dialect = dialect
        self.doc = doc
        self.name = ""
        self.view = view = Params(message, "LayerParameter", self._at)
        self.name: str = view["name"]
        self.type: str = view["type"]
        self.bottoms: tuple[str, ...] = view["bottom"]
        self.tops: tuple[str, ...] = view["top"]

    def __repr__(self) -> str:
        return f"Layer({self.name!r}, {self.type}, {self.bottoms} -> {self.tops})"

    @property
    def line(self) -> int:
        """Line of the layer's statement, from 1."""
        return self.doc.position(self.field.start)[0]

    def where(self) -> str:
        """``file:line (layer 'name')``, as errors begin."""
        return self._at(self.field.start)

    def _at(self, offset: int) -> str:
        line = self.doc.position(offset)[0]
        return f"{self.doc.path or '<text>'}:{line} (layer '{self.name}')"

    def has(self, name: str) -> bool:
        """Whether the layer's message gives the field."""
        return self.view.has(name)

    def params(self, name: str) -> Params:
        """The view of one of the layer's messages, e.g. ``convolution_param``; empty if absent.

        Messages that BVLC Caffe does not have are read through the schema of the forks.
        """
        if name in load_schema().messages["LayerParameter"]:
            return self.view[name]
        field = load_schema("forks").messages["LayerParameter"].get(name)
        return Params(self.message.last(name), field.type if field else name, self._at, "forks")

    @cached_property
    def specs(self) -> tuple[ParamSpec, ...]:
        """The ``param`` messages; the three of an old BatchNorm are fixed to 0 as Caffe does."""
        specs = []
        for param in self.view["param"]:
            names = ("name", "lr_mult", "decay_mult", "share_mode")
            given = frozenset(name for name in names if param.has(name))
            specs.append(ParamSpec(*(param[name] for name in names), given))
        if self.type == "BatchNorm" and len(specs) == _BATCH_NORM_BLOBS:
            given = frozenset(("lr_mult", "decay_mult"))
            return tuple(ParamSpec(s.name, 0.0, 0.0, s.share_mode, s.given | given) for s in specs)
        return tuple(specs)

    @cached_property
    def loss_weights(self) -> tuple[float, ...]:
        """The loss weights that the text gives, one for each top, or none."""
        return self.view["loss_weight"]

    @property
    def propagate_down(self) -> tuple[bool, ...]:
        """For each bottom whether training goes back through it; empty where nothing is said."""
        return self.view["propagate_down"]

    @property
    def phase(self) -> str | None:
        """The layer's own phase (TRAIN, TEST), which it works in whatever the net's phase is."""
        return _phase_named(self.view) if self.has("phase") else None

    def in_state(self, state: State) -> bool:
        """Whether the layer's include and exclude rules let it take part (Net::FilterNet)."""
        include, exclude = self.view["include"], self.view["exclude"]
        if include and exclude:
            raise NetError(
                f"{self.where()}: has both include and exclude rules; expected one kind of them"
            )
        if include:
            return any(state.meets(rule) for rule in include)
        return not any(state.meets(rule) for rule in exclude)


@dataclass(frozen=True)
class State:
    """What decides which layers take part: phase, level and stages."""

    phase: str = "TEST"
    level: int = 0
    stages: frozenset[str] = frozenset()

    def meets(self, rule: Params) -> bool:
        """Whether the state meets a NetStateRule (Net::StateMeetsRule)."""
        return not (
            (rule.has("phase") and _phase_named(rule) != self.phase)
            or (rule.has("min_level") and self.level < rule["min_level"])
            or (rule.has("max_level") and self.level > rule["max_level"])
            or not self.stages.issuperset(rule["stage"])
            or not self.stages.isdisjoint(rule["not_stage"])
        )


class Net:
    """A net: its document, name, dialect (V0, V1 or V2), and all layers of the file in order.

    ``inputs`` lists the names and shapes (None where the file gives none) of the ``input`` fields;
    they come as one Input layer, ``input_layer``, in front of the layers of each phase.
    """

    def __init__(self, doc: Document):
        self.doc = doc
        self.warnings: list[str] = list(doc.warnings)
        refuse_other_kinds(doc)
        self.view = Params(doc.root, "NetParameter", lambda offset: _place(doc, offset))
        self.name: str = self.view["name"]
        self.dialect = "V2"
        self.layers: tuple[Layer, ...] = tuple(self._read_layers())
        self.inputs: tuple[tuple[str, MaybeShape], ...] = tuple(self._read_inputs())
        self.input_layer = _input_layer(doc, self.inputs) if self.inputs else None

    def __repr__(self) -> str:
        return f"Net({self.name!r}, {self.dialect}, {len(self.layers)} layers)"

    def _read_layers(self) -> Iterable[Layer]:
        doc = self.doc
        new, old = doc.root.fields_named("layer"), doc.root.fields_named("layers")
        if new and old:
            raise NetError(
                f"{doc.where(old[0])}: met 'layers' in a net that has 'layer' too (line "
                f"{doc.position(new[0].start)[0]}), which Caffe refuses; use one of them throughout"
            )
        new, old = _statements(new), _statements(old)
        for field in new + old:
            if not isinstance(field.value, Message):
                raise NetError(f"{doc.where(field)}: {field.name} is no message; write {{ ... }}")
        if any(upgrade.is_v0(field.value) for field in old):
            self.dialect = "V0"
        elif old:
            self.dialect = "V1"
        for field in new:
            yield Layer(field.value, field, "V2", doc)
        for field, message in upgrade.fold_padding(old, doc):
            if upgrade.is_v0(message):
                view = upgrade.v0_as_v2(message, doc, self.warnings)
                yield Layer(view, field, "V0", doc)
            else:
                yield Layer(upgrade.v1_as_v2(message, doc), field, "V1", doc)

    def _read_inputs(self) -> Iterable[tuple[str, MaybeShape]]:
        names, dims = self.view["input"], self.view["input_dim"]
        shapes = [shape["dim"] for shape in self.view["input_shape"]]
        if not shapes:
            shapes = [dims[i : i + 4] for i in range(0, len(dims) - 3, 4)]
        if not shapes and not dims:
            # Caffe drops inputs without shapes; those that no layer makes are still to be given.
            made = {top for layer in self.layers for top in set(layer.tops) - set(layer.bottoms)}
            return [(name, None) for name in names if name not in made]
        if len(shapes) < len(names):
            raise NetError(
                f"{self.doc.path or '<text>'}: {len(names)} input(s) but shapes for {len(shapes)}; "
                "expected an input_shape, or four input_dim, for each"
            )
        return zip(names, shapes)

    def phase(
        self, phase: str | None = None, stages: Iterable[str] = (), level: int | None = None
    ) -> tuple[Layer, ...]:
        """The layers that take part in a phase (TRAIN or TEST), the implicit Input layer first.

        What is not given comes from the net's own ``state``, which says TEST by default; stages
        are added to its own.
        """
        own = self.view["state"]
        name = phase.upper() if phase else own["phase"]
        check_known(name, ("TRAIN", "TEST"), "phase")
        state = State(
            name,
            own["level"] if level is None else level,
            frozenset(own["stage"]) | frozenset(stages),
        )
        first = (self.input_layer,) if self.input_layer else ()
        return first + tuple(layer for layer in self.layers if layer.in_state(state))


def read_net(path) -> Net:
    """The net in a prototxt file; FileError or NetError where it is none, saying what it seems."""
    return Net(text.read(path))


def parse_net(data: bytes | str, path: str | None = None) -> Net:
    """The net in a text; ``path`` is only named in errors."""
    return Net(text.parse(data, path))


def _phase_named(view: Params) -> str:
    """The phase that a rule or layer names; a fork's own phase stays a word that is never met."""
    word = view.raw("phase")[0]
    return word.raw if getattr(word, "kind", "") == "word" else view["phase"]


def _place(doc: Document, offset: int) -> str:
    return f"{doc.path or '<text>'}:{doc.position(offset)[0]}"


def _statements(fields: list[Field]) -> list[Field]:
    """The fields with lists ``layer [{...}, {...}]`` taken apart."""
    apart = []
    for field in fields:
        if isinstance(field.value, tuple):
            apart += [Field(field.name, v.start, v.start, v) for v in field.value]
        else:
            apart.append(field)
    return apart


def _input_layer(doc: Document, inputs) -> Layer:
    """The Input layer that Caffe's upgrade makes of ``input`` fields."""
    shapes = "".join(
        f"shape {{ {' '.join(f'dim: {dim}' for dim in shape)} }} " for _, shape in inputs if shape
    )
    tops = " ".join(f"top: {quote(name)}" for name, _ in inputs)
    made = text.parse(f'name: "input" type: "Input" {tops} input_param {{ {shapes}}}').root
    origin = doc.root.fields_named("input")[0]
    _point_at(made, origin.start)
    return Layer(made, origin, "V2", doc)


def _point_at(message: Message, offset: int) -> None:
    """Let every node of a made-up message point at one place of the real text."""
    message.start = message.end = offset
    for field in message.fields:
        field.start = field.end = field.value.start = offset
        if isinstance(field.value, Message):
            _point_at(field.value, offset)
