"""Proves, before anything is written, that Caffe will accept the outcome of an operation.

Caffe copies weights by layer name, stops where a shape differs, and is silent about a layer that
finds no weights and about weights that no layer takes.  So each rewritten prototxt is read again
and inferred in its TRAIN and TEST phase, and every layer with parameters must find blobs of exactly
the shapes that Caffe will allocate, with nothing of ours left over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import PlanError
from ..net.match import Match, Stored, match, stored_blobs
from ..net.net import parse_net
from ..net.shapes import NetShapes, infer
from .apply import Operated
from .describe import Described


def stored_after(weights, operated: Operated) -> dict[str, list[Stored]]:
    """Shapes that the new caffemodel will hold, by layer name."""
    stored = stored_blobs(weights)
    for name, layers in operated.weights.items():
        stored.pop(name, None)
        for layer in layers:
            stored[layer.name] = [Stored(np.shape(blob)) for blob in layer.blobs]
    return stored


def prove(nets: Sequence[Described], weights, operated: Operated) -> tuple[str, ...]:
    """Check every rewritten prototxt in every phase it has; the notes are what a user should know.

    Raises PlanError when Caffe would stop, or would leave one of the new layers without weights.
    A layer that had no weights before (a new classifier to be trained) is only noted.
    """
    stored, before = stored_after(weights, operated), stored_blobs(weights)
    new = {layer.name for layers in operated.weights.values() for layer in layers}
    used, notes = set(), []
    for described in nets:
        path = described.net.doc.path or ""
        notes += [
            f"{path} ({phase}): not checked, since the net as it was does not set up: {problem}"
            for phase, problem in described.problems.items()
        ]
        rewritten = parse_net(operated.texts[path], path)
        for phase, old in described.phases.items():
            shapes = infer(rewritten, phase, described.inputs)
            _same_blobs(old, shapes, operated.gone, f"{path} ({phase})")
            found = match(shapes, stored)
            _refuse(found, match(old, before), new, f"{path} ({phase})")
            names = {entry.layer.name for entry in shapes.layers}
            used |= names & new
            notes += [
                f"{path} ({phase}): layer '{name}' has no weights in {weights.path}; Caffe will "
                "fill it anew"
                for name in found.missing
            ]
    if new - used:
        raise PlanError(
            f"no prototxt has the new layers {', '.join(sorted(new - used))}; this should not "
            "happen: please report it with the net and the plan"
        )
    return tuple(dict.fromkeys(notes))


def _refuse(found: Match, before: Match, new: set[str], where: str) -> None:
    was_wrong = {name for name, _ in before.wrong}
    problems = [sentence for name, sentence in found.wrong if name not in was_wrong]
    problems += [f"new layer '{name}' finds no weights" for name in found.missing if name in new]
    if before.wrong:
        problems += [sentence for _, sentence in before.wrong]
    if problems:
        raise PlanError(
            f"{where}: Caffe would refuse these weights:\n  " + "\n  ".join(problems[:8])
        )


def _same_blobs(old: NetShapes, new: NetShapes, gone: frozenset[str], where: str) -> None:
    """Every blob that is to stay is still there, with its shape."""
    for name, shape in old.blobs.items():
        if name not in gone and new.blobs.get(name) != shape:
            raise PlanError(
                f"{where}: blob '{name}' was {shape}, and would be {new.blobs.get(name, 'gone')}; "
                "a layer that reads it would see the difference"
            )
