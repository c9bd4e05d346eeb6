"""Where a model comes from, as metadata of the file: names and checksums of its sources."""

from __future__ import annotations

import hashlib
import os

_CHUNK = 1 << 20


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
            found[f"caffe.{kind}.sha256"] = _checksum(path)
    return found


def _checksum(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
