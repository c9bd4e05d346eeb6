"""Images a second from data layers, against a plain PyTorch data set with Pillow and NumPy.

    python tools/bench_data.py [--seconds 3] [--threads 0,1,2]

Three sources, all cut at random, mirrored, and without their mean: CIFAR-10 as raw LMDB, 300
ImageNet photographs (JPEG, 256 x 256) as encoded LMDB, and the same as files, resized to 240.  They
are made from the reference material (CAFFESURGERY_SHARED, by default ../shared).  The peer is what
a PyTorch user writes: a Dataset and a DataLoader with as many worker processes as there are threads
here, reading an array in memory or files through Pillow.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from databases import datum, write_lmdb  # noqa: E402

from caffesurgery.data.layers import open_feed  # noqa: E402
from caffesurgery.files import wire  # noqa: E402
from caffesurgery.net.net import parse_net  # noqa: E402

MEAN = (104.0, 117.0, 123.0)
MEANS = " ".join(f"mean_value: {value}" for value in MEAN)
CASES = {
    "raw LMDB, 3 x 32 x 32": (100, 28, 'type: "Data" data_param { source: "raw" backend: LMDB'),
    "JPEG LMDB, 256 x 256": (32, 227, 'type: "Data" data_param { source: "jpeg" backend: LMDB'),
    "ImageData, resized to 240": (
        32,
        224,
        'type: "ImageData" image_data_param { source: "list.txt" new_height: 240 new_width: 240',
    ),
}


def write_sources(shared: Path) -> None:
    """The databases and files, in the current folder."""
    cifar = np.load(shared / "cifar10" / "train_first10000.npz")
    write_lmdb(
        Path("raw"), [datum(*item) for item in zip(cifar["images"], cifar["labels"].tolist())]
    )
    sample = np.load(shared / "imagenet_sample" / "images300.npz")
    ends, data = sample["offsets"], sample["jpeg"]
    files = [data[start:end].tobytes() for start, end in zip(ends, ends[1:])]
    records = [
        wire.block(4, file) + wire.integer(5, i) + wire.integer(7, 1)
        for i, file in enumerate(files)
    ]
    write_lmdb(Path("jpeg"), records)
    Path("files").mkdir()
    for number, file in enumerate(files):
        Path(f"files/{number}.jpg").write_bytes(file)
    Path("list.txt").write_text("".join(f"files/{i}.jpg {i}\n" for i in range(len(files))))


def per_second(batches, seconds: float) -> float:
    """Images a second, the first batch not counted."""
    next(batches)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        count += len(next(batches))
    return count / spent


def ours(case: str, threads: int, seconds: float) -> float:
    """Of the data layer, made ahead by so many threads."""
    batch, crop, text = CASES[case]
    transform = f"transform_param {{ crop_size: {crop} mirror: true {MEANS} }}"
    layer = (
        f'layer {{ name: "d" top: "data" top: "label" {text} batch_size: {batch} }} {transform} }}'
    )
    feed = open_feed(parse_net(layer).phase("TRAIN")[0], "TRAIN")
    batches = feed.batches(threads=threads)
    found = per_second((made["data"] for made in batches), seconds)
    batches.close()
    return found


class Photographs:
    """What a PyTorch user writes: an item is cut, turned round and normalised."""

    def __init__(self, case: str, shared: Path):
        _, self.crop, text = CASES[case]
        self.raw, self.resized = '"raw"' in text, "list.txt" in text
        if self.raw:
            self.images = np.load(shared / "cifar10" / "train_first10000.npz")["images"]
        self.mean = np.array(MEAN, np.float32)[:, None, None]

    def __len__(self) -> int:
        return len(self.images) if self.raw else 300

    def __getitem__(self, index: int):
        import torch
        from PIL import Image

        if self.raw:
            pixels = self.images[index]
        else:
            image = Image.open(f"files/{index}.jpg").convert("RGB")
            if self.resized:
                image = image.resize((240, 240), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)
        top, left = (int(torch.randint(side - self.crop + 1, ())) for side in pixels.shape[1:])
        pixels = pixels[:, top : top + self.crop, left : left + self.crop]
        if torch.rand(()) < 0.5:
            pixels = pixels[:, :, ::-1]
        return torch.from_numpy(pixels.astype(np.float32) - self.mean), index % 10


def peer(case: str, workers: int, seconds: float, shared: Path) -> float:
    """Of PyTorch's DataLoader with so many processes."""
    from torch.utils.data import DataLoader

    batch = CASES[case][0]
    loader = DataLoader(
        Photographs(case, shared), batch, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip

    def endless():
        while True:
            yield from (images for images, _ in loader)

    return per_second(endless(), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--threads", default="0,1,2", help="numbers of threads, with commas")
    options = parser.parse_args()
    shared = Path(os.environ.get("CAFFESURGERY_SHARED", ROOT.parent / "shared")).resolve() / "data"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_sources(shared)
        print(f"{'source':28} {'threads':>7} {'here':>9} {'PyTorch':>9} {'ratio':>6}")
        for case in CASES:
            for threads in map(int, options.threads.split(",")):
                mine = ours(case, threads, options.seconds)
                other = peer(case, threads, options.seconds, shared)
                print(
                    f"{case:28} {threads:7} {mine:9.0f} {other:9.0f} {mine / other:6.2f}",
                    flush=True,
                )
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
