"""What ``--method`` can name: a scheme, or a policy that picks a scheme for each layer.

``cp`` is the CP-SVD hybrid of paper 000: layers whose kernel is a matrix or whose input has few
channels are decomposed 2-way, other convolutions 3-way, fully connected layers by SVD.  ``cp-tpm``,
``cp-als`` and ``cp-random`` choose alike, and name the algorithm that finds the components.
``tucker2`` is the whole-network scheme of paper 001: Tucker-2 from the second convolution to the
first fully connected layer, Tucker-1 (which is SVD) for the others.  ``two-pass`` is what paper 002
decomposes, and how.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..decompose import SCHEMES, Geometry, Scheme
from ..errors import UsageError, suggest

AUTO = "auto"
"""The policy that compares schemes by the time of a machine (``auto``)."""
FEW_CHANNELS = 4
"""An image has 1, 3 or 4 channels; paper 000 leaves the channels of the first layer together."""


def _cp(geometry: Geometry, three: str = "cp3", two: str = "cp2") -> str:
    if geometry.kind == "fc":
        return "svd"
    matrix = geometry.D == geometry.E == 1
    return two if matrix or geometry.S <= FEW_CHANNELS else three


def _tucker2(geometry: Geometry) -> str:
    if geometry.kind == "fc":
        return "tucker2" if geometry.D * geometry.E > 1 else "svd"
    matrix = geometry.D == geometry.E == 1
    return "tucker1-out" if matrix or geometry.S <= FEW_CHANNELS else "tucker2"


class Leave(NamedTuple):
    """What a policy says of a layer that it has no scheme for."""

    why: str


def _two_pass(geometry: Geometry) -> str | Leave:
    if geometry.kind == "fc":
        return Leave("two-pass leaves fully connected layers as they are")
    if geometry.D == geometry.E == 1:
        return Leave("two-pass leaves 1 x 1 convolutions as they are")
    if geometry.S <= FEW_CHANNELS:
        return Leave("two-pass leaves the first convolution as it is")
    return "cp4-als" if min(geometry.D, geometry.E) > 1 else "cp3-als"


POLICIES: dict[str, tuple[Callable[[Geometry], str | Leave], str]] = {
    "cp": (_cp, "CP-SVD of paper 000: cp2, cp3 or svd, by what the layer is"),
    "cp-tpm": (partial(_cp, three="cp3-tpm"), "cp by the tensor power method of paper 000"),
    "cp-als": (partial(_cp, three="cp3-als"), "cp by the plain ALS of paper 002"),
    "cp-random": (
        partial(_cp, three="cp3-random", two="cp2-random"),
        "cp with random factors, the ablation of paper 000; fully connected layers by SVD",
    ),
    "tucker2": (_tucker2, "whole-network Tucker of paper 001: tucker2, tucker1-out or svd"),
    AUTO: (
        _cp,
        "of all schemes the fastest for each layer at equal error, by the profile of a machine "
        "(`caffesurgery help cost`)",
    ),
    "two-pass": (
        _two_pass,
        "paper 002: cp4-als for convolutions larger than 1 x 1 but the first; to be applied, "
        "restored, trained and applied again (`caffesurgery help two-pass`)",
    ),
}


def known_methods() -> dict[str, str]:
    """Name and one-line description of everything that ``--method`` takes."""
    known = {name: about for name, (_, about) in POLICIES.items()}
    known.update((name, scheme.title) for name, scheme in SCHEMES.items() if name not in known)
    return known


def check_method(method: str) -> None:
    """Raise UsageError, listing the known ones, when ``method`` is unknown."""
    if method not in POLICIES and method not in SCHEMES:
        raise UsageError(f"unknown method '{method}'; {suggest(method, known_methods())}")


def choose(method: str, flat: Geometry, spatial: Geometry | None) -> tuple[Scheme, Geometry] | str:
    """The scheme for a layer and the geometry it works on, or why there is none.

    ``spatial`` is a fully connected layer seen as the convolution over its bottom; ``flat`` is a
    convolution, or a fully connected layer as the matrix that it is.
    """
    check_method(method)
    name = POLICIES[method][0](spatial or flat) if method in POLICIES else method
    if isinstance(name, Leave):
        return name.why
    found = fit(SCHEMES[name], flat, spatial)
    return found if isinstance(found, str) else (SCHEMES[name], found)


def fit(scheme: Scheme, flat: Geometry, spatial: Geometry | None) -> Geometry | str:
    """The geometry on which a scheme takes a layer, or why it does not.

    A scheme for fully connected layers alone takes them as matrices, the others spatially.
    """
    if spatial is not None and scheme.kinds != {"fc"}:
        return scheme.applies(spatial) or spatial
    return scheme.applies(flat) or flat


def catalogue() -> dict:
    """Every scheme and policy as data: what ``caffesurgery methods`` prints."""
    return {
        "methods": [_entry(one) for one in SCHEMES.values()],
        "policies": [{"name": name, "about": about} for name, (_, about) in POLICIES.items()],
    }


def _entry(scheme: Scheme) -> dict:
    sample = Geometry(T=6, S=4, D=2, E=3)  # every size is another, so that it can be told
    parts = scheme.parts(sample, [2] * len(scheme.rank_names))
    layers = [
        {
            "suffix": part.suffix,
            "kernel": f"{'D' if part.kh > 1 else '1'} x {'E' if part.kw > 1 else '1'}",
            "depthwise": part.group > 1,
        }
        for part in parts
    ]
    return {
        "name": scheme.name,
        "title": scheme.title,
        "kinds": sorted(scheme.kinds),
        "ranks": list(scheme.rank_names),
        "layers": layers,
        "equations": scheme.equations,
        "weights": scheme.cost,
        "source": scheme.source,
    }
