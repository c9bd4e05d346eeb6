"""Layers of compressed nets without their weights: what the timing tests and tools predict."""

from __future__ import annotations

from dataclasses import replace

from caffesurgery.cost import Sizes, chain_sizes
from caffesurgery.decompose import Geometry, scheme
from caffesurgery.files.resources import resource
from caffesurgery.net.net import parse_net, read_net
from caffesurgery.net.shapes import infer
from caffesurgery.surgery.apply import outline
from caffesurgery.surgery.plan import LayerPlan, Plan
from caffesurgery.surgery.target import target
from caffesurgery.timing import dense_part, works_of, works_of_parts
from caffesurgery.timing.fit import Sample

CONV1 = "conv1_"
CONV1_GEOMETRY = Geometry(96, 3, 11, 11)
CONV1_SIZES = Sizes(227, 227, 55, 55)
ALEX_CONV = [f"conv{i}" for i in range(1, 6)]
ALEX_FC = ["fc6", "fc7", "fc8"]
GOOG_CONV = ["conv1/7x7_s2", "conv2/3x3"] + [
    f"inception_{name}/3x3" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
]
VGG_CONV = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]

CP_150 = dict(zip(ALEX_CONV + ALEX_FC, (69, 154, 153, 178, 196, 365, 275, 260)))
CP_100 = dict(zip(ALEX_CONV + ALEX_FC, (47, 102, 103, 118, 130, 365, 275, 260)))
TUCKER = {"conv1": 26, "conv2": (50, 118), "conv3": (105, 112), "conv4": (98, 92),
          "conv5": (80, 68)}  # fmt: skip
CP_35 = dict(zip(GOOG_CONV, (35, 41, 35, 38, 33, 34, 34, 32, 32, 36, 35)))
"""Ranks of papers 000 and 001, as totals over the groups."""


def zoo(name: str, batch: int = 1):
    """Shapes of a net of the zoo."""
    return infer(read_net(resource("models", name, "deploy.prototxt")), batch=batch)


def cp_methods(ranks, first: str) -> dict:
    """Layer to (scheme, ranks) as in paper 000: the first 2-way, matrices by SVD, others 3-way."""
    return {
        name: ("svd" if name.startswith("fc") else "cp2" if name == first else "cp3", (rank,))
        for name, rank in ranks.items()
    }


def tucker_methods(ranks) -> dict:
    """Layer to (scheme, ranks) as in paper 001."""
    return {
        name: ("tucker2", rank) if isinstance(rank, tuple) else ("tucker1-out", (rank,))
        for name, rank in ranks.items()
    }


def chain_works(geometry, sizes, parts, bias: bool = True, runtime: str = "caffe") -> list:
    """(Suffix, work) of each small layer of a chain."""
    steps = list(chain_sizes(parts, sizes))
    return [
        (
            part.suffix,
            works_of_parts(
                (replace(part, axes="hw"),), its, runtime, bias and part is steps[-1][0],
                geometry.kind,
            ),
        )
        for part, its in steps
    ]  # fmt: skip


def compressed_works(shapes, methods, runtime: str = "caffe") -> list:
    """(Name, work) of every layer of a net, those in ``methods`` replaced by their chains."""
    found = []
    for entry in shapes.layers:
        name = entry.layer.name
        if name not in methods:
            found.append((name, works_of(entry, runtime)))
            continue
        method, ranks = methods[name]
        seen = target(entry)
        parts = scheme(method).parts(seen.flat, ranks)
        chain = chain_works(seen.flat, seen.sizes_of(seen.flat), parts, seen.bias, runtime)
        found += [(name + suffix, works) for suffix, works in chain]
    return found


def caffe_samples(timing, name: str) -> list[Sample]:
    """The measured layers of one of the nets in the file of Caffe's times, with their work."""
    rows = [row for row in timing[name]["layers"] if row["type"] != "Split"]
    nets = {
        "alex": ("alexnet", {}),
        "goog": ("googlenet", {}),
        "alex_cp150": ("alexnet", cp_methods(CP_150, "conv1")),
        "alex_cp100": ("alexnet", cp_methods(CP_100, "conv1")),
        "alex_tk": ("alexnet", tucker_methods(TUCKER)),
        "goog_cp35": ("googlenet", cp_methods(CP_35, GOOG_CONV[0])),
    }
    if name.startswith(CONV1):
        rows, works = rows[1:], [one for _, one in conv1_works(*name.split("_")[1:])]
    else:
        net, methods = nets[name]
        works = [one for _, one in compressed_works(zoo(net), methods)]
    assert len(rows) == len(works), name
    return [Sample(one, row["ms"], row["name"]) for one, row in zip(works, rows)]


def conv1_works(form: str, rank: str = "", runtime: str = "caffe") -> list:
    """(Suffix, work) of AlexNet's conv1: 'dense', or '3way' with a rank such as 'R50'."""
    if form == "dense":
        works = works_of_parts((dense_part(CONV1_GEOMETRY),), CONV1_SIZES, runtime)
        return [("", works)]
    parts = scheme(f"cp{form[0]}").parts(CONV1_GEOMETRY, (int(rank[1:]),))
    return chain_works(CONV1_GEOMETRY, CONV1_SIZES, parts, runtime=runtime)


VGG_RANKS = dict(zip(VGG_CONV, (59, 50, 51, 75, 115, 65, 64, 78, 80, 92, 99, 110, 102)))
VGG_FC = {"fc6": 162, "fc7": 145, "fc8": 143}
VGG_TWO_PASS = dict(zip(VGG_CONV[1:], (16, 68, 53, 159, 93, 115, 339, 205, 246, 450, 431, 416)))
VGG_TUCKER = dict(
    zip(
        VGG_CONV[1:],
        ((11, 18), (22, 34), (39, 36), (58, 117), (138, 132), (124, 119), (148, 194), (212, 207),
         (178, 163), (185, 164), (172, 170), (120, 120)),
    )
)  # fmt: skip
GOOG_TUCKER = {GOOG_CONV[0]: 23} | dict(
    zip(
        GOOG_CONV[2:],
        ((41, 41), (42, 37), (35, 39), (55, 75), (63, 87), (67, 105), (97, 131), (91, 139),
         (108, 178)),
    )
)  # fmt: skip
ALEX_FC_TUCKER = {"fc6": ("tucker2", (210, 584)), "fc7": ("svd", (301,)), "fc8": ("svd", (195,))}


def one_way(ranks, way: int) -> dict:
    """Layer to (scheme, ranks): every convolution ``way``-way, matrices by SVD."""
    full = {"conv1_1": 27}  # paper 000 prints 59 for a 64 x 27 matrix
    return {
        name: ("svd", (rank,))
        if name.startswith("fc")
        else (f"cp{way}", (min(rank, full.get(name, rank)) if way == 2 else rank,))
        for name, rank in ranks.items()
    }


_VGG_CP = {**VGG_RANKS, **VGG_FC}
NETS = {
    "alexnet": {
        "dense": {},
        "cp2": one_way(CP_150, 2),
        "cp3": cp_methods(CP_150, "conv1"),
        "cp4": one_way(CP_150, 4),
        "tucker2": {**tucker_methods(TUCKER), **ALEX_FC_TUCKER},
        "svd": one_way({name: CP_150[name] for name in ALEX_FC}, 2),
    },
    "googlenet": {
        "dense": {},
        "cp2": one_way(CP_35, 2),
        "cp3": cp_methods(CP_35, GOOG_CONV[0]),
        "cp4": one_way(CP_35, 4),
        "tucker2": tucker_methods(GOOG_TUCKER),
    },
    "vgg16": {
        "dense": {},
        "cp2": one_way(_VGG_CP, 2),
        "cp3": {k: v for k, v in cp_methods(_VGG_CP, "conv1_1").items() if k != "conv1_1"},
        "cp4": one_way(VGG_TWO_PASS, 4),
        "tucker2": tucker_methods(VGG_TUCKER),
        "svd": one_way(VGG_FC, 2),
    },
}
"""The nets whose times are predicted and measured, at the ranks of papers 000, 001 and 002."""


def outlined(name: str, methods, batch: int = 1):
    """Shapes of a net of the zoo with the layers in ``methods`` replaced by their chains."""
    shapes = zoo(name, batch)
    if not methods:
        return shapes
    layers = tuple(LayerPlan(layer, m, tuple(ranks)) for layer, (m, ranks) in methods.items())
    return infer(parse_net(outline(shapes.net, shapes, Plan(layers))), batch=batch)
