"""What ``caffesurgery --version -v`` prints: versions of the libraries, and what runs in C."""

from __future__ import annotations

import platform
from importlib import metadata

from .. import __version__

LIBRARIES = ("numpy", "scipy", "protobuf", "onnx", "onnxruntime")


def version_lines() -> list[str]:
    """The lines to print."""
    from ..cost import im2col
    from ..decompose import power
    from ..forward import depthwise

    lines = [
        f"caffesurgery {__version__}",
        f"python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"im2col: {im2col.backend}",
        f"tensor power method: {power.backend}",
        f"depthwise layers in calibration: {depthwise.backend}",
    ]
    for name in LIBRARIES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return lines
