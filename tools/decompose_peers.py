"""What tools/bench_decompose.py measures on, and the peers it compares with.

Tensors of known spectra, layers of real nets, and calls of tensorly, SciPy and scikit-learn that
return what they reached; those that are not installed are left out.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
from scipy.fft import idctn

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
REAL = [
    ("data/squeezenet/squeezenet_v1.0.caffemodel", 64, (32, 64)),
    ("data/res56/res56.caffemodel", 32, (24, 24)),
]
SLOW_PEERS = 1 << 20  # weights from which peers that take minutes are left out


def kernel(T: int, S: int, D: int, seed: int = 0) -> np.ndarray:
    """A (T, S, D, D) kernel, each of whose unfoldings has a power-law spectrum."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((T, S, D * D))
    for axis, size in enumerate(weight.shape):
        turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
        turn = turn * (1 + np.arange(size) / (0.05 * size + 1)) ** -0.6
        weight = np.moveaxis(np.tensordot(turn, weight, (1, axis)), 0, axis)
    return weight.reshape(T, S, D, D).astype(np.float32)


def matrix(m: int, n: int, values: np.ndarray, seed: int = 0) -> np.ndarray:
    """An m x n matrix, m <= n, that has exactly these m singular values."""
    rng = np.random.default_rng(seed)
    spread = np.zeros((m, n), np.float32)
    spread[np.arange(m), rng.permutation(n)[:m]] = values
    spread = idctn(spread, norm="ortho", overwrite_x=True)
    return spread[rng.permutation(m)] * rng.choice(np.float32([-1, 1]), n)


def real_layers():
    """The largest 3 x 3 kernel of each net: its name, kernel, rank of CP, ranks of Tucker-2."""
    from caffesurgery.files import caffemodel

    shared = Path(os.environ.get("CAFFESURGERY_SHARED", SHARED))
    for path, rank, pair in REAL:
        if (shared / path).is_file():
            model = caffemodel.read(shared / path)
            blobs = [layer.blobs[0] for layer in model.layers if layer.blobs]
            blob = max((b for b in blobs if b.shape[2:] == (3, 3)), key=lambda b: b.count)
            yield Path(path).parent.name, blob.array().reshape(blob.shape), rank, pair


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def cp_peers(name: str, weight: np.ndarray, rank: int, slow: bool):
    """tensorly's runs for a CP scheme: label and a call that returns error and norm ratio."""
    if not installed("tensorly"):
        return []
    from tensorly.decomposition import parafac, parafac_power_iteration

    T, S, D, E = weight.shape
    tensor = weight.reshape((T, S, D * E) if name.startswith("cp3") else weight.shape)
    if name.endswith("-tpm"):
        runs = {"power 1 x 10": {"n_repeat": 1, "n_iteration": 10}}
        if slow or weight.size < SLOW_PEERS // 4:
            runs["power default"] = {}
        call = parafac_power_iteration
    else:
        fixed = {"n_iter_max": 100, "tol": 0, "random_state": 0}
        runs = {f"parafac {init}": {"init": init, **fixed} for init in ("svd", "random")}
        call = parafac
    return [
        (label, lambda options=options: cp_error(tensor, call, rank, options))
        for label, options in runs.items()
    ]


def cp_error(tensor: np.ndarray, call, rank: int, options: dict) -> tuple[float, float]:
    """Relative error and sum of norms, over that of the tensor, of one of tensorly's CPs."""
    import tensorly

    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights, factors = call(tensor, rank, **options)
    size = np.linalg.norm(tensor)
    norms = np.abs(weights) * np.prod([np.linalg.norm(f, axis=0) for f in factors], axis=0)
    back = tensorly.cp_to_tensor((weights, factors))
    return float(np.linalg.norm(tensor - back) / size), float(norms.sum() / size)


def tucker_error(weight: np.ndarray, ranks) -> tuple[float, None]:
    """Relative error of tensorly's Tucker-2."""
    import tensorly
    from tensorly.decomposition import partial_tucker

    (core, factors), _ = partial_tucker(weight, rank=ranks[::-1], modes=[0, 1])
    back = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    return float(np.linalg.norm(weight - back) / np.linalg.norm(weight)), None


def svd_peers(weight: np.ndarray, rank: int):
    """scikit-learn's randomized SVD and LAPACK's gesdd in float32: singular values."""
    from scipy.linalg import svd

    runs = [("scipy gesdd", lambda: svd(weight, full_matrices=False, check_finite=False)[1])]
    if installed("sklearn"):
        from sklearn.utils.extmath import randomized_svd

        runs.insert(0, ("scikit-learn", lambda: randomized_svd(weight, rank, random_state=0)[1]))
    return runs
