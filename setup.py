"""What setup.cfg cannot say: the C extensions, and packages that live outside ``caffesurgery/``.

The extensions are optional: without a compiler Python does the same work.  Flags in the environment
variable CAFFESURGERY_CFLAGS (``-Wall -Wextra -Werror``) are added to the compiler's and make the
extensions mandatory and compiled anew, so that a build meant to check them cannot pass without
them.
"""

import os
import shlex
import sys

from setuptools import Extension, find_packages, setup

flags = shlex.split(os.environ.get("CAFFESURGERY_CFLAGS", ""))
optimise = [] if sys.platform == "win32" else ["-O3"]

setup(
    packages=[
        *find_packages(include=["caffesurgery", "caffesurgery.*"]),
        "caffesurgery.proto",
        "caffesurgery.models",
    ],
    ext_modules=[
        Extension(
            "caffesurgery._im2col",
            ["caffesurgery/cost/_im2col.c"],
            depends=[f"caffesurgery/cost/_im2col_{name}.h" for name in ("geometry", "kernels")],
            extra_compile_args=optimise + flags,
            optional=not flags,
        ),
        Extension(
            "caffesurgery._power",
            ["caffesurgery/decompose/_power.c"],
            depends=[
                f"caffesurgery/decompose/_power_{name}.h"
                for name in ("blas", "helpers", "products", "search", "team")
            ],
            extra_compile_args=optimise + flags,
            optional=not flags,
        ),
        Extension(
            "caffesurgery._depthwise",
            ["caffesurgery/forward/_depthwise.c"],
            extra_compile_args=optimise + flags,
            optional=not flags,
        ),
    ],
    options={"build_ext": {"force": True}} if flags else {},
)
