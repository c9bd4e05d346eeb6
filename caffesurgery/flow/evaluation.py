"""What the nets of a flow are worth: on its labelled images, else on the net's own TEST data."""

from __future__ import annotations

from .. import api
from ..net.net import read_net
from ..net.transform import read_transform
from .flow import Flow, Images

METRICS = ("top1", "top5", "loss")
LEVERS = ("whitening", "refit", "statistics")
"""What calibration does to a cut: its ranks are the plan's, and the training polishes it."""


def evaluate(flow: Flow, model: api.Model, progress: api.Progress | None = None) -> dict:
    """Metrics of a net by name; those that its outputs do not have are left out."""
    found = evaluator(flow, flow.evaluate or _own(flow))(model, progress)
    return {name: found[name] for name in METRICS if found[name] is not None}


def _own(flow: Flow) -> Images:
    """What the TEST data layer reads, or what the flow gives in its place."""
    given = [source.path for source in flow.data if source.phase != "TRAIN"]
    return Images(given[0] if given else flow.train_val)


def evaluator(flow: Flow, images: Images) -> api.Evaluator:
    """The Evaluator that a flow asks for; it keeps nothing of what was measured."""
    files, options = _prepared(flow, images)
    return api.Evaluator(*files, **options, cache=None)


def calibrator(flow: Flow) -> api.Calibrator | None:
    """What the flow's cuts are fitted to, at the ranks that its plan says; None without images."""
    if flow.calibrate is None:
        return None
    (images, _), options = _prepared(flow, flow.calibrate)
    del options["metric"]
    return api.Calibrator(images, **options, seed=flow.seed, levers=LEVERS)


def _prepared(flow: Flow, images: Images) -> tuple[tuple, dict]:
    """The files of images and labels, and how they are taken.

    Where images do not say how they are prepared, the data layer of the net to train does: a
    deploy net says nothing of it.
    """
    options = {name: value for name, value in vars(images).items() if value not in ("", None)}
    files = options.pop("images"), options.pop("labels", None)
    said = {"transform", "mean", "scale", "crop"} & {k for k, v in options.items() if v}
    layers = files[0].endswith(".prototxt")  # a net's data layer prepares its images itself
    if not said and not layers and read_transform(read_net(flow.train_val)) is not None:
        options["transform"] = flow.train_val
    return files, options
