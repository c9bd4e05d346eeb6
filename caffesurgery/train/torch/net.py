"""A net as a torch module: Caffe's layers of one phase, their parameters, and the loss.

``TorchNet`` takes the shapes of a net in its TRAIN or TEST phase (``net.shapes.infer``) and runs
its layers in their order.  Parameters are Caffe's learnable blobs, each once where layers share it;
their first values come from the fillers, and from a caffemodel with ``load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import TrainError
from ...net.graph import Port
from ...net.shapes import NetShapes
from .fillers import filled
from .labels import LabelCheck
from .layers import Context
from .steps import Step, is_fed, loss_weights, needed, steps_of


@dataclass(frozen=True)
class Learnable:
    """One learnable blob: the layer that owns it (``owner``: its index, and the blob's), and the
    multipliers of its learning rate and its decay."""

    owner: Port
    layer: str
    lr_mult: float
    decay_mult: float


class TorchNet(torch.nn.Module):
    """A net that torch can train.

    ``learnables`` describes ``values`` (the parameters) in Caffe's order; blobs that a lr_mult of 0
    freezes ask for no gradient.  ``has_idle_blobs`` says that some blobs may get no gradient though
    they ask for one.  ``rank`` of ``of`` processes each see an equal slice of every batch, and
    ``shapes`` are those of a slice.

    Raises TrainError, naming layer, type and line, for a layer that cannot be trained.
    """

    def __init__(self, shapes: NetShapes, phase: str, *, seed: int = 0, rank: int = 0, of: int = 1):
        super().__init__()
        self.shapes = shapes
        self.context = Context(rank, of)
        self.learnables = tuple(_learnables(shapes))
        self.values = torch.nn.ParameterList(_first_values(shapes, self.learnables, seed))
        self.weights = loss_weights(shapes)
        self.outputs = {
            (index, top): shapes.layers[index].layer.tops[top]
            for index, top in shapes.graph.outputs()
        }
        kept = {*self.weights, *self.outputs}
        self._fed = [(i, e.layer.tops) for i, e in enumerate(shapes.layers) if is_fed(e.layer)]
        self._steps = steps_of(shapes, phase, self.context, kept)
        self._needed = needed(self._steps, self.weights)
        self.check_labels = LabelCheck(shapes)
        used = {owner for step in self._needed for owner, _ in step.blobs}
        self.has_idle_blobs = any(step.stops for step in self._steps) or any(
            one.lr_mult and one.owner not in used for one in self.learnables
        )
        self._by_owner = {one.owner: value for one, value in zip(self.learnables, self.values)}

    def forward(
        self, inputs: Mapping[str, torch.Tensor], seed: int = 0, outputs: bool = True
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(Loss, the net's outputs by name) of one batch; ``inputs`` has the data layers' tops.

        ``seed`` draws the dropout.  Without ``outputs`` the layers that neither the loss nor a
        running statistic depends on are left out, and the dictionary is empty.
        """
        self.context.generator.manual_seed(seed)
        values = {
            (index, top): inputs[name] for index, tops in self._fed for top, name in enumerate(tops)
        }
        for step in self._steps if outputs else self._needed:
            self._run(step, values)
        loss = None
        for port, weight in self.weights.items():
            value = values[port].sum() if values[port].ndim else values[port]
            term = value * weight if weight != 1 else value
            loss = term if loss is None else loss + term
        given = {n: values[p].detach() for p, n in self.outputs.items()} if outputs else {}
        return torch.zeros(()) if loss is None else loss, given

    def _run(self, step: Step, values: dict[Port, torch.Tensor]) -> None:
        bottoms = [values[port] for port in step.reads]
        for stop in step.stops:
            bottoms[stop] = bottoms[stop].detach()
        blobs = [
            value if value.shape == shape else value.view(shape)
            for value, shape in ((self._by_owner[owner], shape) for owner, shape in step.blobs)
        ]
        try:
            made = step.forward(bottoms, blobs)
        except (RuntimeError, IndexError, ValueError) as error:
            raise _failed(step, error) from error
        values.update(zip(step.makes, made if isinstance(made, tuple) else (made,)))
        for port in step.done:
            del values[port]

    def place(self, device: torch.device) -> TorchNet:
        """The net on a device, with its random numbers."""
        self.context.generator = torch.Generator(device)
        return self.to(device)

    def share(self, other: TorchNet) -> None:
        """Take the blobs of another net's layers of the same names, as Caffe's test nets do."""
        theirs = {entry.layer.name: entry for entry in other.shapes.layers if entry.params}
        for entry in self.shapes.layers:
            found = theirs.get(entry.layer.name)
            if not entry.params or found is None:
                continue
            if found.params != entry.params:
                raise TrainError(
                    f"{entry.layer.where()}: its blobs are {entry.params} in the TEST phase and "
                    f"{found.params} in the TRAIN phase; expected the same"
                )
            for mine, owner in zip(entry.owners, found.owners):
                self._by_owner[mine] = other._by_owner[owner]

    def load(self, weights) -> None:
        """Copy the blobs of a caffemodel into the layers of the same names, as Caffe does.

        That they fit has been looked at before (``train.check.require_weights``).
        """
        for entry in self.shapes.layers:
            if entry.params and entry.layer.name in weights:
                for owner, blob in zip(entry.owners, weights.blobs(entry.layer.name)):
                    self._set(owner, blob.array())

    def _set(self, owner: Port, array: np.ndarray) -> None:
        value = self._by_owner[owner]
        with torch.no_grad():
            value.copy_(torch.tensor(np.asarray(array, np.float32)).reshape(value.shape))

    def blobs(self, index: int) -> list[np.ndarray]:
        """The blobs of a layer as Caffe stores them, shared ones included."""
        entry = self.shapes.layers[index]
        arrays = (self._by_owner[owner].detach().cpu().numpy() for owner in entry.owners)
        return [np.ascontiguousarray(a).reshape(s) for a, s in zip(arrays, entry.params or ())]


def _failed(step: Step, error: Exception) -> TrainError:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        what = "the GPU's memory is full; take a smaller batch_size and a larger iter_size"
    else:
        what = str(error).strip().splitlines()[0]
    return TrainError(f"{step.layer.where()}: {step.layer.type}: {what}")


def _learnables(shapes: NetShapes):
    """Caffe's learnable_params: owners in order; what sharers say of a multiplier counts too."""
    given: dict[tuple[Port, str], float] = {}
    for entry in shapes.layers:
        for owner, spec in zip(entry.owners, entry.layer.specs):
            for name in ("lr_mult", "decay_mult"):
                if name in spec.given:
                    given.setdefault((owner, name), getattr(spec, name))
    for index, entry in enumerate(shapes.layers):
        statistics = entry.layer.type == "BatchNorm"
        for number, owner in enumerate(entry.owners):
            if owner == (index, number):
                rate = 0.0 if statistics else given.get((owner, "lr_mult"), 1.0)
                decay = given.get((owner, "decay_mult"), 1.0)
                yield Learnable(owner, entry.layer.name, rate, decay)


def _first_values(shapes: NetShapes, learnables, seed: int):
    made = {}
    for index in {learnable.owner[0] for learnable in learnables}:
        made[index] = filled(shapes.layers[index], seed)
    for one in learnables:
        value = torch.tensor(made[one.owner[0]][one.owner[1]])
        yield torch.nn.Parameter(value, requires_grad=one.lr_mult != 0)
