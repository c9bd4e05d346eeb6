"""Where a model comes from, as metadata of the file: names and checksums of its sources."""

from __future__ import annotations

import os

from ..files.digest import sha256


def provenance(net, weights) -> dict[str, str]:
    """Metadata ``caffe.net``, ``caffe.prototxt``, ``caffe.caffemodel`` and the SHA-256 of both
    files.

    File names come without folders; a net that was not read from a file has no checksum.
    """
    found = {"caffe.net": net.name.encode("utf-8", "replace").decode()}
    paths = {"prototxt": net.doc.path, "caffemodel": weights.path if weights is not None else None}
    for kind, path in paths.items():
        if path and os.path.isfile(path):
            found[f"caffe.{kind}"] = os.path.basename(path).encode("utf-8", "replace").decode()
            found[f"caffe.{kind}.sha256"] = sha256(path)
    return found
