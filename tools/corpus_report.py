"""How many of the public deploy nets of a corpus become ONNX models that compute what Caffe does.

    python tools/corpus_report.py [--corpus DIR] [--only 'GLOB'] [--jobs 2] [--json OUT]
                                  [--python ENV/bin/python] [--cache DIR] [--sample N]

Each net is exported at opset 13 and at the newest that the installed ONNX Runtime runs, passes
onnx's checker with full shape inference, is loaded and run in ONNX Runtime, and compared with an
oracle: Caffe's own outputs where the corpus has them, else OpenCV 4's importer, with trained
weights where there are any and seeded ones elsewhere.  Where OpenCV cannot read a net, or is known
not to compute what Caffe does (corpus_opencv.py says what), the oracle is this package's executor
in NumPy, and the table says so.
``--python`` runs the model of opset 13 in another environment's ONNX Runtime too.
Every net is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from caffesurgery.net.layers import known_types

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 900
CLOSE = 1e-4


def nets(corpus: Path, only: str) -> list[dict]:
    """Rows of the corpus's deploy nets that some schema reads, oldest name first."""
    rows = json.loads((corpus / "prototxt_index.json").read_text())
    return sorted(
        (
            row
            for row in rows
            if row["kind"] == "net"
            and row.get("role") == "deploy"
            and row.get("schema")
            and fnmatch.fnmatch(row["rel"], only)
        ),
        key=lambda row: row["rel"],
    )


def trained(corpus: Path) -> dict[str, dict]:
    """Prototxt -> the caffemodel that belongs to it, and whose outputs for it the corpus has."""
    found: dict[str, dict] = {}
    for row in json.loads((corpus / "caffemodels.json").read_text()):
        for oracle in row.get("oracle") or []:
            if not (oracle.get("net_params_without_weights") or oracle.get("model_layers_unused")):
                oracle = {**oracle, "rel": row["rel"]}
                oracle["by"] = "caffe" if "/caffe_" in oracle["outputs_npz"] else "opencv"
                old = found.get(oracle["proto"].split("/", 1)[1])
                if old is None or (old["by"], oracle["by"]) == ("opencv", "caffe"):
                    found[oracle["proto"].split("/", 1)[1]] = oracle
    return found


def measure(row: dict, oracle: dict | None, options) -> dict:
    """One net in a process of its own; what it prints last is its result."""
    unknown = sorted(set(row["layer_types"]) - set(known_types()))
    if unknown:
        return {"rel": row["rel"], "outcome": "layer types not listed", "why": ", ".join(unknown)}
    task = {
        "net": str(options.corpus / "prototxt" / row["rel"]),
        "corpus": str(options.corpus),
        "oracle": oracle,
        "python": options.python,
    }
    cache = options.cache and options.cache / f"{row['sha256']}.json"
    if cache and cache.exists():
        return json.loads(cache.read_text())
    done = None
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "corpus_net.py")],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        result = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        result = {"outcome": "failed", "why": f"not done after {TIMEOUT} s"}
    except (IndexError, ValueError):
        result = {"outcome": "failed", "why": f"died: {done.stderr[-300:] if done else ''}"}
    result = {"rel": row["rel"], **result}
    if cache and done:  # what took too long may only have been disturbed
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(result))
    return result


def table(results: list[dict]) -> str:
    """Outcomes and their numbers, the share that agrees, and why the rest does not."""
    counts = Counter(result["outcome"] for result in results)
    lines = [f"{len(results)} deploy nets that a schema of Caffe or of a fork reads"]
    lines += [f"{number:5}  {outcome}" for outcome, number in counts.most_common()]
    outside = ("layer types not listed", "Caffe refuses it", "incomplete")
    described = [result for result in results if result["outcome"] not in outside]
    agree = [result for result in described if result["outcome"] == "agrees"]
    share = 100 * len(agree) / max(1, len(described))
    lines.append(
        f"described completely: {len(described)}; agree with an oracle to {CLOSE:g}: "
        f"{len(agree)} = {share:.1f} %"
    )
    lines.append("oracles: " + str(dict(Counter(result["oracle"] for result in agree))))
    worst = max((error for result in agree for error in result["errors"].values()), default=0)
    warned = sum(bool(result.get("warnings")) for result in described)
    lines.append(f"largest difference {worst:.1e}; nets with warnings at load: {warned}")
    for result in sorted(results, key=lambda result: (result["outcome"], result["rel"])):
        if result["outcome"] != "agrees":
            lines.append(
                f"{result['outcome']:24}{result['rel'][-70:]:72}{result.get('why', '')[:160]}"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure and print; exit status 1 where fewer than 95 % of the described nets agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--corpus", type=Path, default=shared / "corpus")
    parser.add_argument("--only", default="*")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--python", help="Python of another environment with ONNX Runtime.")
    parser.add_argument("--cache", type=Path, help="Folder in which results are kept.")
    parser.add_argument("--sample", type=int, help="Only so many nets, drawn at random.")
    options = parser.parse_args()
    oracles = trained(options.corpus)
    rows = nets(options.corpus, options.only)
    random.Random(0).shuffle(rows)
    rows = rows[: options.sample]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda row: measure(row, oracles.get(row["rel"]), options), rows)
        results = list(found)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
