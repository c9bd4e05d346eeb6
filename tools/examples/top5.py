"""What an app does with an exported net: a camera's frame in, the five likeliest classes out.

    caffesurgery export deploy.prototxt net.caffemodel -o net.onnx \\
        --preprocess-from train_val.prototxt --resize 256x256 --labels synset_words.txt
    python tools/examples/top5.py net.onnx frame.ppm

Needs NumPy and ONNX Runtime and nothing else: sizes, order of channels and names of classes are in
the model's own metadata.  FRAME is a .npy (height x width x 3, uint8, RGB) or a binary .ppm.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import onnxruntime


class Classifier:
    """A model as an app holds it: loaded once, then called with one frame after the other."""

    def __init__(self, path: str, threads: int = 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        about = self.session.get_modelmeta().custom_metadata_map
        if "preprocessing" not in about:
            sys.exit(f"{path}: no preprocessing inside; export it with --preprocess")
        ((self.input, self.frame),) = json.loads(about["inputs"]).items()
        self.output, scores = next(iter(json.loads(about["outputs"]).items()))
        self.probabilities = scores["probabilities"]
        self.labels = about["labels"].split("\n") if "labels" in about else None

    def __call__(self, frame: np.ndarray, count: int = 5) -> list[tuple[float, str]]:
        """(Probability, label) of the ``count`` likeliest classes of one frame, H x W x 3, RGB."""
        feed = {self.input: self.as_wanted(frame)[None]}
        (scores,) = self.session.run([self.output], feed)
        scores = scores[0].ravel().astype(np.float64)
        if not self.probabilities:
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:count]
        return [(float(scores[i]), self.labels[i] if self.labels else str(i)) for i in best]

    def as_wanted(self, frame: np.ndarray) -> np.ndarray:
        """The frame with its channels in the order that the model takes."""
        height, width = self.frame["height"], self.frame["width"]
        if height and frame.shape[:2] != (height, width):
            sys.exit(
                f"the model takes frames of {height} x {width}, this one has "
                f"{frame.shape[0]} x {frame.shape[1]}; export with --resize for frames of any size"
            )
        if self.frame["channels"] == "gray":
            return np.round(frame @ (0.299, 0.587, 0.114)).astype(np.uint8)[..., None]
        opaque = np.full(frame.shape[:2], 255, np.uint8)
        planes = {**dict(zip("rgb", np.moveaxis(frame, -1, 0))), "a": opaque}
        return np.stack([planes[channel] for channel in self.frame["channels"]], axis=-1)


def read_frame(path: str) -> np.ndarray:
    """A frame, H x W x 3 (uint8, RGB), from a .npy or a binary .ppm."""
    if path.endswith(".npy"):
        frame = np.load(path)
    else:
        with open(path, "rb") as stream:
            data = stream.read()
        magic, width, height, most, pixels = data.split(maxsplit=4)
        if magic != b"P6" or most != b"255":
            sys.exit(f"{path}: expected a binary PPM (P6) with values up to 255, or a .npy")
        size = int(width) * int(height) * 3
        frame = np.frombuffer(data[-size:], np.uint8).reshape(int(height), int(width), 3)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        sys.exit(f"{path}: expected height x width x 3, uint8; met {frame.shape}, {frame.dtype}")
    return frame


def main() -> None:
    """Classify one frame."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("frame")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    classify = Classifier(options.model, options.threads)
    frame = read_frame(options.frame)
    classify(frame)  # the first call is slower than those that follow
    started = time.perf_counter()
    found = classify(frame)
    print(f"{1e3 * (time.perf_counter() - started):.1f} ms")
    for probability, label in found:
        print(f"{probability:.4f}  {label}")


if __name__ == "__main__":
    main()
