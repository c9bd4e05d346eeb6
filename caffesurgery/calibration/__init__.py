"""What images say about the layers of a net, and how a smaller net is fitted to the one it is from.

    moments = calibration.collect(shaped, blobs, sample)       # of what every layer sees
    found = calibration.fit(old, new, blobs, new_blobs, chains, sample, held)
    better = calibration.polished(old, new, blobs, new_blobs, layers, sample, watched)

Nets come as shapes and blobs, images as a ``Sample`` of prepared batches, without labels; what was
planned for a net is not known here.
"""

from .fit import Calibration, Fitted, Levers, fit
from .guard import disturbance, divergence, outputs, watched
from .moments import collect
from .polish import polished
from .probe import with_worth
from .sample import Sample, Shaped, lazy_sample, sample_of

__all__ = [
    "Calibration",
    "Fitted",
    "Levers",
    "Sample",
    "Shaped",
    "collect",
    "disturbance",
    "divergence",
    "fit",
    "lazy_sample",
    "outputs",
    "polished",
    "sample_of",
    "watched",
    "with_worth",
]
