"""Whether a phone's accelerators can run an ONNX model: NNAPI, CoreML and XNNPACK.

An ONNX file goes in; for each accelerator comes out how many nodes it takes, in how many pieces,
and what stands in the way, by the tables that ONNX Runtime keeps for its own usability checker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import VerifyError
from ..export.reading import ReadNode, read_graph

_XNNPACK = frozenset(
    """conv convtranspose maxpool averagepool softmax gemm matmul resize qlinearconv
    quantizelinear dequantizelinear relu clip""".split()
)
"""What ONNX Runtime's XNNPACK provider takes, in small letters; it fuses ReLU and Clip."""

_GOOD, _FAIR = 0.75, 0.5
_WORDS = {"yes": "worth using", "maybe": "try it and measure", "no": "leave it off"}


@dataclass(frozen=True)
class Accelerator:
    """What one accelerator makes of a model.

    ``verdict`` is "yes", "maybe" or "no", ``sentence`` says it in plain words; ``supported`` of
    ``nodes`` nodes can run there, in ``pieces`` runs of nodes between which the data comes back to
    the processor; ``unsupported`` are the operators that cannot, ``advice`` is what may help.
    """

    name: str
    verdict: str
    sentence: str
    nodes: int
    supported: int
    pieces: int
    unsupported: tuple[str, ...]
    advice: str


def check_mobile(path: str | os.PathLike) -> tuple[Accelerator, ...]:
    """What NNAPI, CoreML (both of its formats) and XNNPACK make of the ONNX file at ``path``.

    Raises VerifyError for a file that is no ONNX model, and for an onnxruntime without the tables.
    """
    graph = read_graph(path)
    checks = (
        ("NNAPI", _table("nnapi_supported_ops.md"), True),
        ("CoreML (ML Program)", _table("coreml_supported_mlprogram_ops.md"), True),
        ("CoreML (NeuralNetwork)", _table("coreml_supported_neuralnetwork_ops.md"), True),
        ("XNNPACK", _XNNPACK, False),
    )
    return tuple(_judge(name, graph, known, apart) for name, known, apart in checks)


def _judge(name: str, graph: Sequence[ReadNode], known: frozenset[str], apart: bool) -> Accelerator:
    """One accelerator's verdict.

    ``apart`` says that it has a memory of its own: then it wants fixed shapes, and every piece
    costs copies.  What fixed shapes would bring is said as advice.
    """
    takes = {node.name: node.op.lower() in known for node in graph}
    pieces = _partition(graph, {n.name: takes[n.name] and not (apart and n.open) for n in graph})
    verdict, advice = _verdict(pieces, len(graph), apart), ""
    if apart and any(node.open for node in graph):
        closed = _partition(graph, takes)
        better = _verdict(closed, len(graph), apart)
        if better != verdict:
            advice = (
                "fix the shapes (export --batch 1, and --frame HxW where frames are open): then "
                f"{_coverage(closed, len(graph))}, which makes it: {_WORDS[better]}"
            )
    unsupported = tuple(sorted({node.op for node in graph if not takes[node.name]}))
    if not advice and unsupported and verdict != "yes":
        advice = f"{', '.join(unsupported)} would stay on the processor"
    count = sum(map(len, pieces))
    sentence = f"{_WORDS[verdict]}: it can run {_coverage(pieces, len(graph))}"
    return Accelerator(name, verdict, sentence, len(graph), count, len(pieces), unsupported, advice)


def _coverage(pieces: Sequence[Sequence], nodes: int) -> str:
    """How much of a model runs in these pieces, in words."""
    count = sum(map(len, pieces))
    if not count:
        return f"none of the {nodes} nodes"
    where = "in one piece" if len(pieces) == 1 else f"in {len(pieces)} pieces"
    return f"{count} of {nodes} nodes {where}"


def _verdict(pieces: list[list], nodes: int, apart: bool) -> str:
    """ONNX Runtime's own rule: one piece is best, two may do, more cost more than they bring."""
    share = sum(map(len, pieces)) / max(1, nodes)
    count = len(pieces) if apart else min(1, len(pieces))
    if count == 1 and share > _GOOD:
        return "yes"
    if (count == 1 and share > _FAIR) or (count == 2 and share > _GOOD):
        return "maybe"
    return "no"


def _partition(graph: Sequence[ReadNode], takes: Mapping[str, bool]) -> list[list[ReadNode]]:
    """Pieces of nodes that can run on the accelerator without coming back in between.

    As ONNX Runtime groups them: nodes are taken in the order in which they become ready, and one
    that cannot run there and reads from the current piece closes it.
    """
    waiting = {node.name: len(node.before) for node in graph}
    by_name = {node.name: node for node in graph}
    ready = [node for node in graph if not node.before]
    later: list[ReadNode] = []
    pieces: list[list[ReadNode]] = []
    piece: list[ReadNode] = []
    border: set[str] = set()
    while ready or later:
        if not ready:
            if piece:
                pieces.append(piece)
            piece, border = [], set()
            ready, later = later, []
            continue
        node = ready.pop(0)
        if takes[node.name]:
            piece.append(node)
            border.discard(node.name)
            border.update(node.after)
        elif node.name in border:
            later.append(node)
            continue
        for name in node.after:
            waiting[name] -= 1
            if not waiting[name]:
                ready.append(by_name[name])
    return pieces + [piece] if piece else pieces


def _table(name: str) -> frozenset[str]:
    """Operators (of ONNX, in small letters) in one of the tables that onnxruntime brings."""
    import onnxruntime

    path = Path(onnxruntime.__file__).parent / "tools" / "mobile_helpers" / name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise VerifyError(
            f"this onnxruntime ({onnxruntime.__version__}) brings no {name}; install 1.20 or newer"
        ) from error
    rows = (line.split("|")[1] for line in lines if line.startswith("|ai.onnx"))
    return frozenset(row[len("ai.onnx") + 1 :].lower() for row in rows)  # one row has no colon
