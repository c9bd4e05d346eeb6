"""Shapes to numbers: parameters, multiply-adds, and Caffe's im2col.  Knows no files, no weights."""

from .count import Cost, Sizes, chain_cost, dense_cost

__all__ = ["Cost", "Sizes", "chain_cost", "dense_cost"]
