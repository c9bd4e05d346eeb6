"""The cost model: what layers do, how profiles are read and written, and what they predict."""

from __future__ import annotations

import json
import math
from itertools import count

import pytest
from timings import (
    CONV1_GEOMETRY,
    CONV1_SIZES,
    VGG_CONV,
    caffe_samples,
    compressed_works,
    cp_methods,
    zoo,
)

from caffesurgery.cost import Sizes
from caffesurgery.decompose import Geometry, scheme
from caffesurgery.errors import FileError, SurgeryError, UsageError
from caffesurgery.net.layers.base import known_types, lookup
from caffesurgery.net.net import parse_net
from caffesurgery.net.shapes import infer
from caffesurgery.timing import (
    KINDS,
    Curve,
    Linear,
    Profile,
    dense_part,
    load_profile,
    parse_profile,
    predict,
    predicted_ms,
    quiet,
    shipped,
    work,
    works_of,
    works_of_parts,
)
from caffesurgery.timing.caffe_log import fitted, parse_caffe_log, profile_from_logs, samples
from caffesurgery.timing.fit import Sample, fit_linear, quality, spearman


def works(shapes, name, runtime="caffe") -> dict:
    """Work of a layer by kind, as (calls, sizes)."""
    entry = next(entry for entry in shapes.layers if entry.layer.name == name)
    return {one.kind: (one.calls, dict(one.sizes)) for one in works_of(entry, runtime)}


def test_a_convolution_is_columns_products_and_bias():
    shapes = zoo("alexnet", batch=3)
    assert works(shapes, "conv2") == {
        "layer": (1, {}),
        "gemm": (6, {"m": 128, "n": 729, "k": 1200}),
        "im2col": (3, {"elements": 2400 * 729}),
        "bias": (3, {"elements": 256 * 729}),
    }
    assert works(shapes, "fc6")["gemm"] == (1, {"m": 4096, "n": 3, "k": 9216})
    assert works(zoo("alexnet"), "fc6")["gemv"] == (1, {"m": 4096, "n": 1, "k": 9216})
    assert "im2col" not in works(zoo("googlenet"), "inception_3a/1x1")


def test_pooling_counts_the_taps_that_windows_have():
    shapes = zoo("googlenet")
    (_, sizes) = works(shapes, "inception_3a/pool")["max_pool"]
    assert sizes == {"taps": 192 * 82**2, "outputs": 192 * 784, "inputs": 192 * 784}
    assert works(shapes, "pool5/7x7_s1")["ave_pool"][1]["taps"] == 1024 * 49


def test_products_are_the_multiply_adds_of_the_net():
    for name in ("lenet", "alexnet", "squeezenet", "resnet50"):
        shapes = zoo(name, batch=2)
        for runtime in ("caffe", "onnxruntime"):
            found = [one for entry in shapes.layers for one in works_of(entry, runtime)]
            macs = sum(one.amount("mac") for one in found if "mac" in KINDS[one.kind].features)
            assert macs == shapes.macs


def test_a_chain_s_work_is_that_of_its_layers():
    """The parts of a scheme, without a net, do what the same layers of a net do."""
    shapes = zoo("vgg16")
    methods = cp_methods({name: 60 for name in VGG_CONV[1:]} | {"fc6": 100}, "conv1_1")
    names = [name for name, _ in compressed_works(shapes, methods)]
    assert {"conv3_2_s", "conv3_2_dd", "conv3_2_t", "fc6_ud", "fc6_vt"} <= set(names)
    for name in ("conv1_1", "conv3_2", "fc7"):
        entry = shapes.layer(name)
        T, S, *window = entry.params[0]
        kind = "conv" if window else "fc"
        geometry = Geometry(T, S, *(window or (1, 1)), kind=kind)
        sizes = Sizes(*entry.bottoms[0][2:], *entry.tops[0][2:]) if window else Sizes()
        chain = works_of_parts((dense_part(geometry),), sizes, "caffe", kind=kind)
        assert chain == works_of(entry, "caffe")


def test_every_layer_type_of_caffe_has_work_or_is_known_to_have_none():
    from caffesurgery.timing import lower

    counted, forks = set(lower._LOWER), ("forks", "detection", "regions")
    assert counted <= set(known_types())
    caffes = {name for name in known_types() if not lookup(name).__module__.endswith(forks)}
    assert caffes - counted == {
        "Accuracy", "ArgMax", "Data", "HDF5Data", "HDF5Output", "ImageData", "LSTMUnit",
        "MemoryData", "Python", "WindowData",
    }  # fmt: skip


def test_predicted_order_of_conv1_s_forms_is_that_of_paper_000():
    profile = load_profile()
    ms = {}
    for way in (2, 3, 4):
        parts = scheme(f"cp{way}").parts(CONV1_GEOMETRY, (50,))
        ms[way] = predicted_ms(parts, CONV1_SIZES, profile)
    dense = predicted_ms((dense_part(CONV1_GEOMETRY),), CONV1_SIZES, profile)
    assert ms[2] < dense < ms[4] < ms[3]
    assert 1.0 < ms[2] < 2.5 and 10 < ms[3] < 20  # measured in Caffe: 1.7 and 16.8


@pytest.fixture(name="timing")
def _timing(shared):
    return json.loads(shared("timing", "caffe_cpu.json").read_text())["nets"]


@pytest.mark.parametrize("name", ["alex_cp150", "alex_cp100", "alex_tk", "goog_cp35"])
def test_the_caffe_profile_predicts_compressed_nets_it_was_not_fitted_on(timing, name):
    profile, layers = load_profile("caffe-cpu-avx512"), caffe_samples(timing, name)
    ours = [profile.ms(one.works) for one in layers]
    assert sum(ours) == pytest.approx(timing[name]["total_min"], rel=0.15)
    assert quality(ours, [one.ms for one in layers])["order"] > 0.95


def test_the_shipped_profile_is_the_fit_on_the_measured_nets(timing):
    seen = [name for name in timing if name in ("alex", "goog") or name.startswith("conv1_")]
    measured = [one for name in seen for one in caffe_samples(timing, name)]
    again, profile = fitted(measured, "again", "there", 1, ""), load_profile()
    for kind, model in again.terms.items():
        assert profile.terms[kind].ns == pytest.approx(dict(model.ns), rel=1e-3, abs=1e-9), kind
    assert dict(profile.fit) == again.fit


def log_of(shapes, text: str, times) -> str:
    """What `caffe time` prints for a net, without the lines that nobody needs."""
    head = "I1121 05:00:00.000001  4242 "
    lines = [
        f"{head}caffe.cpp:352] Use CPU.",
        f"{head}net.cpp:51] Initializing net from parameters: ",
    ]
    lines += text.splitlines()
    for entry in shapes.layers:
        lines.append(f"{head}net.cpp:84] Creating Layer {entry.layer.name}")
        lines.append(f"{head}net.cpp:122] Setting up {entry.layer.name}")
        for top in entry.tops:
            dims = " ".join(map(str, top))
            lines.append(f"{head}net.cpp:129] Top shape: {dims} ({math.prod(top)})")
    lines.append(f"{head}caffe.cpp:400] Average time per layer: ")
    for name, ms in times.items():
        lines.append(f"{head}caffe.cpp:403] {name:>10}\tforward: {ms:g} ms.")
        lines.append(f"{head}caffe.cpp:406] {name:>10}\tbackward: {2 * ms:g} ms.")
    lines.append(f"{head}caffe.cpp:412] Average Forward pass: {sum(times.values()):g} ms.")
    return "\n".join(lines) + "\n"


@pytest.fixture(name="log", scope="module")
def _log(tmp_path_factory):
    """A log of AlexNet whose times are those of the shipped profile."""
    shapes, profile = zoo("alexnet"), load_profile()
    names = [entry.layer.name for entry in shapes.layers]
    times = {n: one.ms for n, one in zip(names, predict(shapes, profile))}
    text = shapes.net.doc.text.replace("dim: 10", "dim: 1")
    path = tmp_path_factory.mktemp("log") / "time.log"
    path.write_text(log_of(shapes, text, {**times, "data_data_0_split": 0.001}))
    return path, times


def test_a_profile_from_caffe_s_log_gives_its_times_back(log):
    path, times = log
    profile = profile_from_logs([path], "mine", "a phone", 4)
    assert (profile.runtime, profile.machine, profile.threads) == ("caffe", "a phone", 4)
    assert abs(profile.fit["total_error"]) < 0.02 and profile.fit["order"] > 0.99
    total = sum(one.ms for one in predict(zoo("alexnet"), profile))
    assert total == pytest.approx(sum(times.values()), rel=0.02)


def test_a_log_gives_the_shapes_that_data_layers_had():
    text = (
        'layer { name: "d" type: "Data" top: "data" data_param { source: "x" batch_size: 2 } }\n'
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c"\n'
        "  convolution_param { num_output: 4 kernel_size: 3 } }"
    )
    shapes = infer(parse_net(text), "TRAIN", {"data": (2, 3, 8, 8)})
    read, times = parse_caffe_log(log_of(shapes, text, {"c": 0.25}))
    assert read.layer("c").bottoms[0] == (2, 3, 8, 8) and times == {"c": 0.25}
    assert [one.name for one in samples(read, times)] == ["c"]


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda text: "nothing", "it lacks the net"),
        (lambda text: text.split("Average time")[0], "it lacks the times of its layers"),
        (lambda text: text.replace('type: "LRN"', 'type: '), "cannot be used"),
        (lambda text: "".join(line + "\n" for line in text.splitlines() if "forward" not in line
                              or "relu" in line), "too few to fit"),
    ],
)  # fmt: skip
def test_logs_that_are_none(log, tmp_path, change, says):
    path = tmp_path / "log"
    path.write_text(change(log[0].read_text()))
    with pytest.raises(FileError, match=says):
        profile_from_logs([path], "mine")


def test_curves_follow_power_laws_between_and_beyond_their_points():
    curve = Curve({"elements": (10, 100, 1000)}, (20.0, 200.0, 4000.0))
    ns = [1e6 * curve.ms(work("relu", elements=n)) for n in (1, 10, 31.6227766, 300, 10000)]
    assert ns == pytest.approx([20, 20, 63.2456, 200 * 3**1.30103, 80000], rel=1e-5)
    grid = Curve({"m": (1, 10), "k": (1, 10)}, (1.0, 10.0, 10.0, 100.0))
    assert 1e6 * grid.ms(work("gemm", 2, m=5, n=9, k=7)) == pytest.approx(70)


def test_a_fit_finds_the_terms_that_made_the_times():
    made = {
        "gemm": Linear({"call": 900.0, "mac": 0.02, "c": 0.3}),
        "relu": Linear({"element": 0.1}),
    }
    layers = [
        [work("gemm", m=m, n=n, k=k), work("relu", elements=m * n)]
        for m in (8, 64) for n in (50, 3000) for k in (9, 300, 4000)
    ] + [[work("relu", elements=5000)], [work("relu", elements=100)]]  # fmt: skip
    maker = Profile("m", "caffe", "here", 1, made)
    measured = [Sample(one, maker.ms(one)) for one in layers]
    found = fit_linear(measured)
    assert found["relu"].ns["element"] == pytest.approx(0.1, rel=1e-3)
    assert found["gemm"].ns["mac"] == pytest.approx(0.02, rel=1e-3)
    assert fit_linear(measured, {"relu": made["relu"]})["gemm"].ns["c"] == pytest.approx(
        0.3, rel=1e-3
    )


def test_quality_and_rank_correlation():
    assert spearman([1, 2, 3, 4], [2, 4, 6, 9]) == pytest.approx(1)
    assert spearman([1, 2, 2, 4], [4, 2, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [5, 5, 5]) == 1
    found = quality([1.1, 2.0, 1e-9], [1.0, 2.0, 1e-6])
    assert found["layers"] == 3 and found["worst_error"] == pytest.approx(0.1)


def test_a_profile_reads_back_as_it_was_written():
    terms = {"gemm": Curve({"m": (2, 64), "n": (4, 99)}, (1.5, 2.5, 3.5, 4.5)),
             "relu": Linear({"call": 0.25})}  # fmt: skip
    profile = Profile("phone", "onnxruntime", "a phone", 4, terms, "by hand", {"layers": 3})
    assert parse_profile(profile.dumps()) == profile
    for name in shipped():
        assert load_profile(name).name == name


GOOD = json.loads(Profile("p", "caffe", "m", 1, {"relu": Linear({"element": 1.0})}).dumps())


def curve(axes, ns) -> dict:
    return {"terms": {"relu": {"model": "curve", "axes": axes, "ns": ns}}}


@pytest.mark.parametrize(
    "change, says",
    [
        ({"version": 2}, "a profile of version 2, this program reads version 1"),
        ({"format": "x"}, "no profile; expected"),
        ({"runtime": "torch"}, "'runtime' is 'torch'"),
        ({"threads": 0}, "'threads' is 0"),
        ({"terms": {}}, "'terms' is {}"),
        ({"terms": {"relu": {"model": "linear", "ns": {"speed": 1}}}}, "term 'relu' cannot be"),
        ({"terms": {"relu": {"model": "linear", "ns": {"element": -1}}}}, "term 'relu' cannot be"),
        ({"terms": {"relu": {"model": "linear", "ns": {"element": "x"}}}}, "term 'relu' cannot be"),
        (curve({"elements": [1, 2]}, [1]), "'relu'"),
        (curve({"elements": [2, 1]}, [1, 1]), "'relu'"),
        (curve({"m": [1]}, [1]), "'relu'"),
        ({"terms": {"relu": {"model": "magic"}}}, "term 'relu' cannot be used"),
        ({"terms": {"relu": [1]}}, "term 'relu' cannot be used"),
        ({"terms": {"relu": {"model": "linear", "ns": {"element": float("inf")}}}}, "'relu'"),
    ],
)  # fmt: skip
def test_profiles_that_cannot_be_used(change, says):
    with pytest.raises(FileError, match=says):
        parse_profile(json.dumps({**GOOD, **change}), "p.json")


def test_what_is_no_profile(tmp_path):
    with pytest.raises(FileError, match="it is not JSON"):
        parse_profile("layer {", "p.json")
    with pytest.raises(FileError, match="no such profile; give a file"):
        load_profile(tmp_path / "none.json")
    with pytest.raises(FileError, match="did you mean 'caffe-cpu-avx512'"):
        load_profile("caffe-cpu-avx51")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="cannot be read"):
        load_profile(tmp_path / "bytes")
    with pytest.raises(UsageError, match="unknown runtime"):
        works_of(zoo("lenet").layers[0], "torch")
    with pytest.raises(SurgeryError, match="expected m, n, k"):
        work("gemm", elements=3)


def test_terms_that_a_later_version_measures_do_no_harm():
    later = {**GOOD, "terms": {**GOOD["terms"], "winograd": {"model": "linear", "ns": {}}}}
    assert set(parse_profile(json.dumps(later)).terms) == {"relu"}


def test_missing_terms_are_stood_in_for_or_unknown():
    profile = Profile(
        "p", "caffe", "m", 1, {"gemm": Linear({"mac": 1.0}), "relu": Linear({"element": 2.0})}
    )
    shapes = zoo("resnet50")
    by_name = {e.layer.name: one for e, one in zip(shapes.layers, predict(shapes, profile))}
    assert by_name["conv1"].ms is None  # its columns have no term, nor has anything like them
    assert by_name["res2a"].guessed == (("eltwise", "relu"),)
    assert by_name["res2a"].ms == pytest.approx(2 * 2 * 256 * 56 * 56 / 1e6)
    assert by_name["fc1000"].guessed == (("gemv", "gemm"), ("bias", "relu"))
    depthwise = Profile("p", "onnxruntime", "m", 1, {"gemm": Linear({"mac": 1.0})})
    assert depthwise.ms([work("depthwise", n=10, k=9, group=4)]) == pytest.approx(4 * 10 * 9 / 1e6)


def test_onnxruntime_does_rectifiers_and_normalisation_with_the_convolution():
    shapes = zoo("resnet50")
    profile = Profile(
        "p", "onnxruntime", "m", 1, {"gemm": Linear({"mac": 1.0}), "relu": Linear({"element": 2.0})}
    )
    by_name = {e.layer.name: one for e, one in zip(shapes.layers, predict(shapes, profile))}
    for name in ("bn_conv1", "scale_conv1", "conv1_relu", "res2a_branch2a_relu"):
        assert by_name[name].fused, name
    assert not by_name["res2a_relu"].fused and not by_name["res2a"].fused


def test_a_net_of_a_thousand_layers_is_predicted():
    layers = ['input: "d" input_shape { dim: 1 dim: 8 dim: 14 dim: 14 }']
    bottom = "d"
    for index in range(1000):
        layers.append(
            f'layer {{ name: "c{index}" type: "Convolution" bottom: "{bottom}" top: "c{index}" '
            "convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }"
        )
        bottom = f"c{index}"
    shapes = infer(parse_net("\n".join(layers)))
    one = predict(shapes, load_profile())
    many = predict(infer(shapes.net, batch=256), load_profile())
    assert len(one) == 1001 and all(layer.ms >= 0 for layer in one)
    assert many[5].ms == pytest.approx(256 * one[5].ms, rel=0.1)


@pytest.mark.parametrize(
    ("busy", "kept", "taken"),
    [
        ([0, 0], 1, 1),
        ([0, 9, 9, 9], 2, 2),
        ([0, 9, 9, 14, 14, 21], 2, 3),
        ([0, -1], 1, 1),
    ],
)
def test_turns_that_others_disturb_are_taken_again(monkeypatch, busy, kept, taken):
    """busy: seconds that others had before and after each turn of one second."""
    clock, turns, others = count(), [], iter(busy)
    monkeypatch.setattr(quiet.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(quiet, "_others", lambda: next(others))

    def turn():
        turns.append(len(turns) + 1)
        return turns[-1]

    assert quiet.undisturbed(turn) == kept and len(turns) == taken


def test_where_nothing_tells_of_others_the_first_turn_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "none")
    assert quiet.undisturbed(iter("ab").__next__) == "a"
