"""Moments of what layers see, and the fit of a smaller net to the one that it came from."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from calibrated import BLOCK, INPUT, LINEAR, images, net_of, sample

from caffesurgery import forward
from caffesurgery.calibration import (
    Levers,
    collect,
    divergence,
    fit,
    lazy_sample,
    outputs,
    sample_of,
    watched,
    with_worth,
)
from caffesurgery.calibration.chains import Chain
from caffesurgery.calibration.ordered import in_turn
from caffesurgery.calibration.refit import pair_sums, pairs_of
from caffesurgery.calibration.statistics import moved_statistics
from caffesurgery.calibration.store import Store
from caffesurgery.calibration.walk import pair_units
from caffesurgery.decompose import SCHEMES, Geometry
from caffesurgery.decompose.metric import Metric
from caffesurgery.decompose.task import Task
from caffesurgery.errors import NetError


def cut(text: str, blobs: dict, shapes, scheme: str, ranks, names):
    """The net with some layers decomposed: (text, blobs by layer name, chains)."""
    kernels, chains = {}, {}
    for index, entry in enumerate(shapes.layers):
        kernels[entry.layer.name] = list(blobs.get(index, ()))
    for name in names:
        entry = shapes.layer(name)
        kernel, *bias = kernels.pop(name)
        group = entry.layer.params("convolution_param")["group"]
        geometry = Geometry.of(kernel.shape, group)
        parts = SCHEMES[scheme].parts(geometry, ranks(geometry))
        task = Task(name, scheme, kernel, group, ranks(geometry))
        found = task.run()
        names_ = tuple(name + part.suffix for part in parts)
        chains[name] = Chain(names_, parts, group, kernel, partial(_decomposed, task))
        start = text.index(f'layer {{ name: "{name}"')
        end = text.find("\nlayer {", start)
        text = text[:start] + _statements(entry.layer, parts, bool(bias)) + text[end:]
        for part, factor in zip(parts, found.factors):
            kernels[name + part.suffix] = [factor]
        kernels[name + parts[-1].suffix] += bias
    return text, kernels, chains


def _decomposed(task: Task, metric, wanted):
    return replace(task, metric=metric, wanted=wanted).run()


def _statements(layer, parts, bias: bool) -> str:
    """The chain of a 3 x 3 convolution, of which each axis is padded by the part that has it."""
    lines, bottom = [], layer.bottoms[0]
    pad = (layer.params("convolution_param")["pad"] or (0,))[0]
    for part in parts:
        last = part is parts[-1]
        top = layer.tops[0] if last else layer.name + part.suffix
        lines.append(
            f'layer {{ name: "{layer.name}{part.suffix}" type: "Convolution" bottom: "{bottom}" '
            f'top: "{top}" convolution_param {{ num_output: {part.out} group: {part.group} '
            f"kernel_h: {part.kh} kernel_w: {part.kw} pad_h: {pad if part.kh > 1 else 0} "
            f"pad_w: {pad if part.kw > 1 else 0} bias_term: {str(bias and last).lower()} }} }}"
        )
        bottom = top
    return "\n".join(lines)


def smaller(scheme: str, share: float | None, names=("first", "second", "third")):
    """BLOCK and its smaller form: (old, blobs, new, its blobs, chains)."""
    old, blobs = net_of(BLOCK)

    def ranks(geometry):
        most = SCHEMES[scheme].max_ranks(geometry)
        return most if share is None else tuple(max(1, int(share * each)) for each in most)

    text, kernels, chains = cut(BLOCK, blobs, old(1), scheme, ranks, names)
    new, _ = net_of(text)
    found = {
        index: kernels[entry.layer.name]
        for index, entry in enumerate(new(1).layers)
        if entry.params
    }
    return old, blobs, new, found, chains


def apart(old, blobs, new, others, held) -> float:
    """The divergence of the two nets on images."""
    kept = watched(old(1))
    return divergence(outputs(old, blobs, held, kept, 2), outputs(new, others, held, kept, 2), kept)


# -- moments


def patches_of(entry, bottom) -> np.ndarray:
    """Patches by the definition: what each output is made of, found with kernels of one 1."""
    size = int(np.prod(entry.params[0][1:]))
    outputs_, group = entry.params[0][0], entry.layer.params("convolution_param")["group"]
    found = []
    for tap in range(size):
        kernel = np.zeros(entry.params[0], np.float32).reshape(outputs_, -1)
        kernel[:, tap] = 1
        made = forward.alone.run_layer(
            entry, [kernel.reshape(entry.params[0]), np.zeros(outputs_)], [bottom]
        )[0]
        per_group = made.reshape(len(made), outputs_, -1)[:, :: outputs_ // group]
        found.append(per_group.transpose(1, 0, 2).reshape(group, -1))
    return np.stack(found, 1)


def test_moments_are_those_of_the_patches_by_definition():
    shaped, blobs = net_of(LINEAR)
    given = images(10)
    found = collect(shaped, blobs, sample_of({"data": given}, 4), jobs=2)
    assert list(found) == ["grouped", "point", "fc"]
    whole = forward.Runner(shaped(10), blobs, keep=("grouped", "point"))
    made = {"data": given, **whole.run({"data": given})}
    for entry in shaped(10).layers[1:]:
        seen = patches_of(entry, made[entry.layer.bottoms[0]]).astype(np.float64)
        moments = found[entry.layer.name]
        assert moments.count == seen.shape[2] and moments.images == 10
        np.testing.assert_allclose(moments.mean, seen.mean(2), rtol=1e-5, atol=1e-6)
        gram = seen @ seen.transpose(0, 2, 1) / seen.shape[2]
        np.testing.assert_allclose(moments.gram, gram, rtol=1e-4, atol=1e-5)


def test_sums_by_rows_of_the_window_are_those_of_whole_windows(monkeypatch):
    shaped, _ = net_of(LINEAR)
    entry, given = shaped(7).layers[1], images(7)
    made = np.random.default_rng(0).standard_normal(entry.tops[0]).astype(np.float32)

    def found():
        return vars(pairs_of(entry, list(pair_sums(entry, [given], [made]))))

    by_rows = found()
    monkeypatch.setattr("caffesurgery.calibration.patches._by_rows", lambda *given: False)
    for name, each in found().items():
        np.testing.assert_allclose(by_rows[name], each, rtol=1e-4, atol=1e-3, err_msg=name)


def test_moments_do_not_depend_on_threads():
    shaped, blobs = net_of(BLOCK)
    one, many = (collect(shaped, blobs, sample(23), jobs=jobs) for jobs in (1, 5))
    for name, moments in one.items():
        assert np.array_equal(moments.gram, many[name].gram)
        assert np.array_equal(moments.mean, many[name].mean)


def test_layers_that_share_a_kernel_have_their_moments_together():
    layer = """layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" param { name: "w" }
      param { name: "b" } convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }\n"""
    shaped, blobs = net_of(INPUT + layer % ("a", "data", "a") + layer % ("b", "a", "b"))
    found = collect(shaped, blobs, sample(6))
    alone = collect(shaped, blobs, sample(6), names=["b"])
    assert found["a"] is found["b"]
    assert found["a"].count == 2 * alone["b"].count


def test_values_that_are_not_finite_are_refused():
    shaped, blobs = net_of(LINEAR)
    blobs[1] = [np.full_like(blobs[1][0], np.inf), *blobs[1][1:]]
    with pytest.raises(NetError, match="net.prototxt:.*point.*NaN or infinite"):
        collect(shaped, blobs, sample(4))


def test_an_error_in_one_batch_ends_them_all():
    def work(batch, turns):
        if batch == 2:
            raise NetError("here")
        with turns.take(batch, 1):
            pass

    with pytest.raises(NetError, match="here"):
        in_turn(work, 9, jobs=3)


# -- the fit


@pytest.mark.parametrize("scheme", ["spatial", "channel", "tucker2"])
def test_at_full_ranks_the_outputs_are_the_originals(scheme):
    old, blobs, new, others, chains = smaller(scheme, None)
    found = fit(old, new, blobs, others, chains, sample(12), sample(5, 1), jobs=2)
    assert apart(old, blobs, new, {**others, **found.blobs}, sample(9, 2)) < 1e-6


@pytest.mark.parametrize("scheme", ["spatial", "channel", "tucker2", "cp3"])
def test_a_fit_brings_a_smaller_net_closer(scheme):
    old, blobs, new, others, chains = smaller(scheme, 0.4)
    seen, held, other = sample(24), sample(8, 1), sample(30, 2)
    plain = apart(old, blobs, new, others, other)
    found = fit(old, new, blobs, others, chains, seen, held, Levers(statistics=False), jobs=2)
    assert apart(old, blobs, new, {**others, **found.blobs}, other) < 0.9 * plain
    found = fit(old, new, blobs, others, chains, seen, held, jobs=2)
    told = {layer.name: layer for layer in found.layers}
    assert list(told) == ["first", "norm", "second", "norm2", "third", "fc"]
    assert all(one.after <= one.before for one in told.values() if one.before is not None)


def test_a_fit_depends_on_neither_threads_nor_memory():
    old, blobs, new, others, chains = smaller("spatial", 0.4)
    given = (old, new, blobs, others, chains, sample(13), sample(5, 1), Levers())
    one, other = fit(*given, jobs=1), fit(*given, jobs=4, memory=0)
    assert other.spilled > 0 == one.spilled
    assert one.layers == other.layers
    for index, arrays in one.blobs.items():
        assert all(np.array_equal(a, b) for a, b in zip(arrays, other.blobs[index]))


def test_memory_does_not_grow_with_the_images():
    old, blobs, new, others, chains = smaller("spatial", 0.4)

    def most(count: int) -> int:
        def load(places):
            return {"data": images(len(places), int(places[0]))}

        fitted, held = (lazy_sample(np.arange(count) + start, 4, load) for start in (0, 1000))
        tracemalloc.start()
        moments = collect(old, blobs, fitted, jobs=1)
        with_worth(old, blobs, fitted, {n: Metric(each) for n, each in moments.items()}, 1)
        fit(old, new, blobs, others, chains, fitted, held, jobs=1, memory=1 << 12)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(8)  # what is imported and remembered on the way
    assert most(64) < 1.15 * most(16)


def test_layers_that_share_weights_are_not_fitted_each_by_itself():
    layer = """layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" param { name: "w" }
      param { name: "b" } convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }\n"""
    text = BLOCK.replace(INPUT, "").replace('bottom: "data"', 'bottom: "twice"')
    text = INPUT + layer % ("once", "data", "once") + layer % ("twice", "once", "twice") + text
    old, blobs = net_of(text)
    others = {index: list(arrays) for index, arrays in blobs.items()}
    others[1] = others[2] = [0.9 * blobs[1][0], blobs[1][1]]
    chain = Chain(("once",), (), 1, blobs[1][0], None)  # it is not asked
    found = fit(old, old, blobs, others, {"once": chain}, sample(8), sample(4, 1))
    assert not {1, 2} & set(found.blobs) and 4 in found.blobs


# -- statistics, and what holds the activations


def test_statistics_move_by_what_the_images_show_and_keep_the_factor():
    blobs = [np.array([3.0, 6.0]), np.array([12.0, 3.0]), np.array([3.0])]
    old = (np.array([10.0, 0.0]), np.array([20.0, 5.0]), 10.0)  # means 1 and 0, variances 1 and 0.5
    new = (np.array([20.0, 0.0]), np.array([80.0, 5.0]), 10.0)  # means 2 and 0, variances 4 and 0.5
    mean, variance, factor = moved_statistics(blobs, old, new)
    assert factor.tolist() == [3.0]
    np.testing.assert_allclose(mean, [6, 6])
    np.testing.assert_allclose(variance, [48, 3])
    same = moved_statistics(blobs, old, old)
    assert all(np.allclose(a, b) for a, b in zip(same, blobs))


def test_a_batch_norm_that_never_saw_an_image_is_given_a_factor():
    empty = [np.zeros(2), np.zeros(2), np.zeros(1)]
    sums = (np.array([2.0, 4.0]), np.array([8.0, 8.0]), 2.0)
    assert moved_statistics(empty, sums, sums)[2].tolist() == [1.0]


def test_a_store_goes_to_the_disk_and_leaves_nothing_there(tmp_path):
    with Store(limit=100, folder=str(tmp_path)) as store:
        for key in range(4):
            store.put(key, np.full(20, key, np.float32))
        assert store.spilled == 240
        assert [store.get(key)[0] for key in range(4)] == [0, 1, 2, 3]
        store.drop(3)
        store.drop(0)
        store.put(4, np.zeros(20, np.float32))
        assert store.spilled == 240 and len(list(tmp_path.rglob("*.npy"))) == 2
    assert not list(tmp_path.iterdir())


def test_nets_that_do_not_match_are_refused():
    old, _ = net_of(LINEAR)
    new, _ = net_of(LINEAR.replace('name: "point"', 'name: "other"'))
    with pytest.raises(NetError, match="expected point in its place.*met other"):
        pair_units(old(1), new(1), {})


def test_outputs_that_need_labels_are_looked_at_before_the_loss():
    loss = """layer { name: "l" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "l" }
      layer { name: "right" type: "Accuracy" bottom: "fc" bottom: "label" top: "right" }"""
    text = BLOCK[: BLOCK.index('layer { name: "prob"')] + loss
    text = 'layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 1 } } }' + text
    old, _ = net_of(text)
    assert [(one.blob, one.kind) for one in watched(old(1))] == [("fc", "scores")]
