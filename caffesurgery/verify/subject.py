"""A net with its weights and the images that it is evaluated on, as one value that can travel.

Nothing in it needs a file: workers on other machines evaluate it as well.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from ..data.images import Images, Preprocessing
from ..data.items import pieces
from ..errors import VerifyError
from ..export.onnx import Export, build
from ..net.net import Net, parse_net
from ..net.shapes import NetShapes, infer
from .decomposed import Decomposed
from .weights import Weights


@dataclass(frozen=True, eq=False)
class Subject:
    """A net to be evaluated, on which images and how.

    text, path: the net's prototxt, and its name for messages
    images, prepare: as ``Preprocessing`` brings images to the net's input
    blob: the output with one score for each class; the net's only output where it is ""
    inputs: shapes that the prototxt does not give
    seed: of decompositions
    """

    text: str
    path: str | None
    weights: Weights
    images: Images
    prepare: Preprocessing
    blob: str = ""
    inputs: Mapping[str, tuple[int, ...]] | None = None
    seed: int = 0

    def __getstate__(self):
        """What travels: nothing that can be found again from the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @functools.cached_property
    def net(self) -> Net:
        return parse_net(self.text, self.path)

    @functools.cached_property
    def shapes(self) -> NetShapes:
        return infer(self.net, "TEST", self.inputs)

    @functools.cached_property
    def exported(self) -> Export:
        """The net as it is, as an ONNX model."""
        return self.build({})

    def build(self, kernels: Mapping[str, np.ndarray]) -> Export:
        """The ONNX model of the net with other kernels in some layers."""
        blobs = [self.blob] if self.blob else []
        weights = self.weights.replaced(kernels)
        return build(self.net, weights, inputs=self.inputs, keep_blobs=blobs)

    @functools.cached_property
    def output(self) -> str:
        """The blob with the classes' scores; VerifyError where nobody says which."""
        outputs = list(self.exported.outputs)
        if not self.blob and len(outputs) != 1:
            raise VerifyError(
                f"{self.path}: it has the outputs {', '.join(outputs)}; say with --blob which of "
                "them has a score for each class"
            )
        return self.blob or outputs[0]

    @functools.cached_property
    def probabilities(self) -> bool:
        """Whether the output comes from a Softmax."""
        writers = [entry.layer for entry in self.shapes.layers if self.output in entry.layer.tops]
        return bool(writers) and writers[-1].type == "Softmax"

    @functools.cached_property
    def decomposed(self) -> Decomposed:
        """Dense kernels of decomposed layers."""
        return Decomposed(self.shapes, self.weights, self.seed)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of everything here but the weights' and the images' place: what results depend on.

        Weights of layers that the net has not are left out.
        """
        known = {entry.layer.name for entry in self.shapes.layers}
        hashed = hashlib.sha256()
        prepare = self.prepare
        for part in (self.text, self.blob, sorted((self.inputs or {}).items()), self.seed):
            hashed.update(repr(part).encode("utf-8", "surrogateescape"))
        hashed.update(repr((prepare.scale, prepare.bgr, prepare.crop)).encode())
        arrays = {"images": self.images.images, "labels": self.images.labels, "mean": prepare.mean}
        for name in sorted(known & set(self.weights.names())):
            for index, blob in enumerate(self.weights.blobs(name)):
                arrays[f"{name}/{index}"] = blob.array()
        for name, array in arrays.items():
            if array is not None:
                hashed.update(f"{name} {array.dtype.str} {array.shape} ".encode("utf-8", "replace"))
                for piece in pieces(array):
                    hashed.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        return hashed.hexdigest()
