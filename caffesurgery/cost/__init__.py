"""Shapes to numbers: parameters, multiply-adds, and Caffe's im2col.  Knows no files, no weights."""

from .count import (
    Cost,
    Sizes,
    chain_cost,
    chain_sizes,
    column_elements,
    dense_cost,
    rearrangements,
)

__all__ = [
    "Cost",
    "Sizes",
    "chain_cost",
    "chain_sizes",
    "column_elements",
    "dense_cost",
    "rearrangements",
]
