"""Where two nets can be compared on the way: blobs through which all goes that an image comes to.

What is right there makes all after it right, whatever lies before; so it is there that a smaller
net has to make what the original made, and nowhere else.
"""

from __future__ import annotations

from ..net.graph import Port
from ..net.shapes import NetShapes
from .guard import Watched
from .patches import TYPES


def checkpoints(shapes: NetShapes, watched: tuple[Watched, ...]) -> tuple[Port, ...]:
    """(Layer, top) of what single convolutions and fully connected layers and nothing past them
    read, and of the outputs, before their softmax; in the order of the net.

    shapes: of the net; watched: its outputs
    """
    graph = shapes.graph
    ends = _ends(shapes, watched)
    counting = graph.leading_to(ends)
    live: dict[Port, int] = {}
    found = []
    for index in sorted(counting):
        for port in graph.sources[index]:
            live[port] -= 1
        live = {port: readers for port, readers in live.items() if readers}
        for top in range(len(shapes.layers[index].tops)):
            readers = sum(reader in counting for reader, _ in graph.consumers(index, top))
            if readers or (index, top) in ends:
                live[index, top] = readers + ((index, top) in ends)
        if len(live) == 1 and _is_read(shapes, *live):
            found.append(*live)
    return tuple(sorted({*found, *ends}))


def _ends(shapes: NetShapes, watched: tuple[Watched, ...]) -> set[Port]:
    """The last versions of the watched blobs, those of probabilities before the softmax."""
    names = {one.blob for one in watched}
    last = {
        name: (index, top)
        for index, entry in enumerate(shapes.layers)
        for top, name in enumerate(entry.layer.tops)
        if name in names
    }
    found = set()
    for index, top in last.values():
        softmax = shapes.layers[index].layer.type == "Softmax"
        found.add(shapes.graph.sources[index][0] if softmax else (index, top))
    return found


def _is_read(shapes: NetShapes, port: Port) -> bool:
    """Whether a layer with a kernel reads a blob."""
    readers = [shapes.layers[index] for index, _ in shapes.graph.consumers(*port)]
    return any(reader.layer.type in TYPES for reader in readers)
