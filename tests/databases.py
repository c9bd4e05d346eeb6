"""Small LMDBs of Datum for tests and benchmarks, as Caffe's convert_imageset writes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from caffesurgery.files import wire


def datum(image: np.ndarray, label: int, encoding: str = "") -> bytes:
    """A Datum of an image C x H x W (blue first); encoding: "" for raw, "jpeg" or "png"."""
    if encoding:
        content = wire.block(4, encoded(image, encoding)) + wire.integer(5, label)
        return content + wire.integer(7, 1)
    dims = b"".join(wire.integer(i, dim) for i, dim in enumerate(image.shape, 1))
    if image.dtype == np.uint8:
        return dims + wire.block(4, image.tobytes()) + wire.integer(5, label)
    floats = b"".join(b"\x35" + value.tobytes() for value in image.astype("<f4").reshape(-1))
    return dims + wire.integer(5, label) + floats


def encoded(image: np.ndarray, encoding: str) -> bytes:
    """The bytes of an image file; 1, 3 or 4 channels, blue first."""
    from PIL import Image

    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[len(image)]
    pixels = np.ascontiguousarray(image[order].transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(stream, encoding)
    return stream.getvalue()


def write_lmdb(path: Path, records: list[bytes], keys=None) -> Path:
    """An LMDB of these records; keys are numbers with eight digits unless they are given."""
    import lmdb

    names = keys or [b"%08d" % number for number in range(len(records))]
    size = 2 * sum(map(len, records)) + 8192 * len(records) + (1 << 20)
    with lmdb.open(str(path), map_size=size) as environment:
        with environment.begin(write=True) as transaction:
            for key, record in zip(names, records):
                transaction.put(key, record)
    return path
