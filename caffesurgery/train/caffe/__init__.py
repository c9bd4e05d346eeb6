"""The user's own Caffe as a trainer: ``caffe train`` is run, and its log followed."""

from __future__ import annotations


def trainer(caffe=None, **_):
    """The trainer that runs a binary: ``caffe``, else $CAFFE_BIN, else the one on the PATH."""
    from .run import CaffeTrainer

    return CaffeTrainer(caffe)
