"""Reports of evaluations on labelled images."""

from __future__ import annotations

import numpy as np


def evaluation_report(name: str, subject, source: str, metrics) -> dict:
    """Report of one net (``verify.subject.Subject``) and its ``verify.scores.Metrics``.

    ``source`` says where its preprocessing comes from: 'options', a place in a prototxt, or ''.
    """
    prepare = subject.prepare
    return {
        "net": name,
        "source": subject.images.name,
        "blob": subject.output,
        "preprocessing": {
            "from": source,
            "mean": _mean(prepare.mean),
            "scale": prepare.scale,
            "bgr": prepare.bgr,
            "crop": prepare.crop,
        },
        **{key: value for key, value in metrics.as_dict().items() if key != "agreement"},
    }


def _mean(mean: np.ndarray | None):
    """One number, one for each channel, or the shape of a mean image."""
    if mean is None or mean.ndim == 0 or mean.shape[1:] == (1, 1):
        return None if mean is None else mean.reshape(-1).tolist()
    return "image " + " x ".join(map(str, mean.shape))
