"""Fits the shipped profile `caffe-cpu-avx512` to Caffe's times, and prints how it predicts.

    python tools/fit_caffe_profile.py TIMING.json [-o caffesurgery/timing/profiles/NAME.json]

The file has, for each net, the milliseconds of its layers in BVLC Caffe.  The dense nets and the
forms of conv1 are fitted on; the compressed nets are only predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from timings import CONV1, caffe_samples  # noqa: E402

from caffesurgery.files.atomic import staged_folder  # noqa: E402
from caffesurgery.timing.caffe_log import fitted  # noqa: E402
from caffesurgery.timing.fit import quality  # noqa: E402

MACHINE = "x86-64 with AVX-512, BVLC Caffe 1.0, OpenBLAS 0.3.21"
DENSE = ("alex", "goog")


def main() -> None:
    """Fit, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("timing")
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    timing = json.loads(Path(options.timing).read_text())["nets"]
    seen = [name for name in timing if name in DENSE or name.startswith(CONV1)]
    measured = [one for name in seen for one in caffe_samples(timing, name)]
    made = (
        f"fitted on {len(measured)} layers of AlexNet, GoogLeNet and AlexNet's conv1 dense, 2-, 3- "
        "and 4-way at ranks 25, 50, 100; batch 1, minimum over 15 runs of each layer"
    )
    profile = fitted(measured, "caffe-cpu-avx512", MACHINE, 1, made)
    print(f"{'net':16} {'measured':>9} {'predicted':>9} {'x':>6} {'median':>7} {'order':>6}")
    for name in timing:
        layers = caffe_samples(timing, name)
        ours, real = [profile.ms(one.works) for one in layers], timing[name]["total_min"]
        fit = quality(ours, [one.ms for one in layers])
        print(
            f"{name:16} {real:9.2f} {sum(ours):9.2f} {sum(ours) / real:6.3f} "
            f"{fit['median_error']:7.3f} {fit['order']:6.3f} {'' if name in seen else 'not fitted'}"
        )
    if options.output:
        path = Path(options.output)
        with staged_folder(path.parent, [path.name], True) as stage:
            (stage / path.name).write_text(profile.dumps(), encoding="utf-8")


if __name__ == "__main__":
    main()
