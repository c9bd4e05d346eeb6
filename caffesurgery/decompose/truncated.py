"""The truncated SVD that all matrix schemes share, and the linear algebra under it.

Small matrices go through the Gram matrix of their short side (float64, exact); large ones
through a block Krylov space that grows until the captured norm settles.  All large products use
SciPy's BLAS, never NumPy's: the two wheels bring an OpenBLAS each, whose thread pools fight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import blas, eigh, lapack, qr

DIRECT = 1500  # short sides up to here: Gram matrix and all its eigenvectors
_CHUNK = 1 << 19  # elements converted to float64 at a time
_PIECE = 6 << 20  # elements copied at a time where they do not lie as BLAS wants them
_APART = 0.2  # columns with a smaller sine to those before them are orthonormalised by reflections
_DEGREE, _CUT = 3, 0.9  # of the Chebyshev filter; its cut over the least Rayleigh quotient
_SPREAD = 64  # Rayleigh quotients further apart are too much for the filter in float32
_SAMPLE = 8  # columns for each one of the block that a Krylov space starts from
_SETTLED = 5e-5  # the Krylov space has settled: expected further gain over the squared error


class TruncatedSVD(NamedTuple):
    """A (m, n) cut at rank R is left @ projected; both float32 in C order.

    left: (m, R), orthonormal columns (zeros where the singular value is zero)
    values: the singular values, float64, descending
    projected: (R, n), the right singular vectors times the values
    lost: ||A - left projected||^2 of exactly these arrays, converged or not
    """

    left: np.ndarray
    values: np.ndarray
    projected: np.ndarray
    lost: float


def working(array: np.ndarray) -> np.ndarray:
    """The array as aligned native float32 in one memory order, copied (once) only if it is not."""
    if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
        return np.require(array, np.float32, "FA")
    return np.require(array, np.float32, "CA")


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b (m, k) (k, n) in C order, through SciPy's BLAS, without copies of contiguous inputs."""
    gemm = blas.sgemm if a.dtype == np.float32 else blas.dgemm
    first, flip_first = (b.T, 0) if b.flags.c_contiguous else (b, 1)
    second, flip_second = (a.T, 0) if a.flags.c_contiguous else (a, 1)
    return gemm(1.0, first, second, trans_a=flip_first, trans_b=flip_second).T


def gram(matrix: np.ndarray, wide: bool | None = None) -> np.ndarray:
    """Upper triangle of A A^T (m, m), in Fortran order, zeros below.

    ``wide`` accumulates in float64; by default up to DIRECT rows, above which float32 halves time
    and memory.
    """
    rows, columns = matrix.shape
    wide = rows <= DIRECT if wide is None else wide
    dtype, syrk = (np.float64, blas.dsyrk) if wide else (np.float32, blas.ssyrk)
    total = np.zeros((rows, rows), dtype, order="F")
    ready = matrix.flags.aligned and matrix.flags.forc
    step = columns if ready and not wide else max(1, (_CHUNK if wide else _PIECE) // rows)
    for start in range(0, columns, step):
        piece = matrix[:, start : start + step].astype(dtype, order="K", copy=not ready)
        flip = not piece.flags.f_contiguous
        piece = piece.T if flip else piece
        total = syrk(1.0, piece, beta=1.0, c=total, trans=int(flip), overwrite_c=1)
    return total


def squared_norm(array: np.ndarray) -> float:
    """Sum of squares to about nine digits, in bounded memory.

    Float32 arrays are summed 512 values at a time before float64 takes over, which costs one read
    of memory and is exact enough since so few terms are added; all others in float64.
    """
    total = 0.0
    rows = max(1, _CHUNK // max(1, array[0].size))
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows].ravel()
        if chunk.dtype == np.float32:
            pieces = chunk[: chunk.size // 512 * 512].reshape(-1, 512)
            total += float(np.einsum("ij,ij->i", pieces, pieces).sum(dtype=np.float64))
            chunk = chunk[pieces.size :]
        chunk = chunk.astype(np.float64)
        total += float(chunk @ chunk)
    return total


def leading_columns(matrix: np.ndarray, rank: int, seed: Sequence[int]) -> np.ndarray:
    """Orthonormal (m, R), C order: the leading left singular vectors, R <= m, in float32.

    More vectors than the matrix has are completed to an orthonormal set.
    """
    rows = len(matrix)
    if rows <= DIRECT:
        return _eigenvectors(gram(matrix, wide=False), rank)
    found = truncated_svd(matrix, min(rank, *matrix.shape), seed).left
    extra = np.random.default_rng(seed).standard_normal((rows, rank - found.shape[1]))
    return np.ascontiguousarray(qr(np.hstack([found, extra]), mode="economic")[0], np.float32)


def turned_columns(matrix: np.ndarray, near: np.ndarray, steps: int = 2) -> np.ndarray:
    """Orthonormal columns near (m, R), C order, turned towards the leading left singular vectors.

    Steps of orthogonal iteration, none of which loses norm; they cost a tenth of eigenvectors.
    """
    squares = gram(matrix, wide=False) if len(matrix) <= DIRECT else None
    for _ in range(steps):
        if squares is None:
            turned = matmul(matrix, matmul(near.T, matrix).T)
        else:
            turned = blas.ssymm(1.0, squares, near.T, side=1).T
        near = orthonormal(turned)
    return near


def filtered_columns(matrix: np.ndarray, near: np.ndarray) -> np.ndarray:
    """As ``turned_columns``, in one step that does what about four of orthogonal iteration do.

    near: (m, R), about the leading left singular vectors themselves, not any basis of their space.
    A Chebyshev polynomial of the Gram matrix lifts what is above a cut, just below the least
    Rayleigh quotient of these columns, over all below it.  Unlike orthogonal iteration it can lose
    a little norm.
    """
    if len(matrix) > DIRECT:
        return turned_columns(matrix, near)
    squares = gram(matrix, wide=False)
    before = near.T
    after = blas.ssymm(1.0, squares, before, side=1)
    quotients = np.einsum("rm,rm->r", before, after)
    cut = _CUT * float(quotients.min())
    if not 0 < float(quotients.max()) <= _SPREAD * cut:
        return turned_columns(matrix, near)
    after *= 2 / cut
    after -= before
    before = before.copy(order="F")  # T(k + 1) = 2 X T(k) - T(k - 1), X = 2 / cut squares - 1
    for _ in range(_DEGREE - 1):
        ahead = blas.ssymm(4 / cut, squares, after, -1.0, before, 1, 0, 1)
        ahead -= 2 * after
        before, after = after, ahead
    return orthonormal(after.T)


def orthonormal(block: np.ndarray) -> np.ndarray:
    """An orthonormal basis, C order, of the columns (m, R) of a block in C order, R <= m.

    By Cholesky's factor of the Gram matrix of the columns at equal lengths, which takes a fifth of
    the time of Householder's reflections; these stand in where the columns are too close.
    """
    lengths = np.sqrt(np.einsum("nr,nr->r", block, block))
    block = block / np.where(lengths > 0, lengths, 1)
    upper, failed = lapack.spotrf(blas.ssyrk(1.0, block.T))
    if failed or upper.diagonal().min() < _APART:
        return np.ascontiguousarray(qr(block, mode="economic", check_finite=False)[0])
    return blas.strsm(1.0, upper, block.T, trans_a=1, overwrite_b=1).T


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """All min(m, n) singular values, float64, descending, from the Gram matrix.

    Relative to the largest they are good to 1e-8 (3e-4 where the short side is above DIRECT).
    """
    matrix = working(matrix)
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    squares = eigh(gram(matrix), lower=False, eigvals_only=True, overwrite_a=True)
    return np.sqrt(np.maximum(squares[::-1], 0).astype(np.float64))


def truncated_svd(matrix: np.ndarray, rank: int, seed: Sequence[int] = (0,)) -> TruncatedSVD:
    """The R leading singular triplets of a matrix (m, n), R <= min(m, n)."""
    matrix = working(matrix)
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    total = squared_norm(matrix)
    if len(wide) <= DIRECT or 4 * rank >= len(wide):
        basis = _eigenvectors(gram(wide), rank)
        other = matmul(basis.T, wide)
    else:
        basis, other = _krylov(wide, rank, total, np.random.default_rng(seed))
    squares = np.array([squared_norm(row[None]) for row in other])
    lost = total - float(squares.sum())
    if lost < 1e-3 * total:  # float32 products leave no digits in the difference
        lost = residual(wide, basis, other)
    values = np.sqrt(squares)
    if not tall:
        return TruncatedSVD(basis, values, other, lost)
    other /= np.where(values > 0, values, 1).astype(np.float32)[:, None]
    scaled = basis.T * values.astype(np.float32)[:, None]
    return TruncatedSVD(np.ascontiguousarray(other.T), values, scaled, lost)


def _eigenvectors(upper: np.ndarray, rank: int) -> np.ndarray:
    """Leading eigenvectors (m, R), float32, C order, of a symmetric matrix; overwrites it."""
    size = len(upper)
    few = [size - rank, size - 1] if rank < size // 4 else None
    vectors = eigh(
        upper,
        lower=False,
        overwrite_a=True,
        check_finite=False,
        subset_by_index=few,
        driver="evr" if few else "evd",
    )[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :rank], np.float32)


def _krylov(
    matrix: np.ndarray, rank: int, total: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal U (m, R) and U^T A (R, n) from a block Krylov space of A A^T.

    total: the matrix's squared norm.  The products Q_i^T A that extend the space are kept: they
    are also the projected matrix, so that the space costs two passes over A for each block and
    nothing more at the end.  It starts from sums of a few random columns, which cost no pass.
    """
    rows, columns = matrix.shape
    width = max(8, rank // 4)
    some = np.sort(rng.choice(columns, min(columns, _SAMPLE * width), replace=False))
    mixed = rng.standard_normal((len(some), width), dtype=np.float32)
    block = matmul(np.ascontiguousarray(matrix[:, some]), mixed)
    basis = np.empty((rows, 0), np.float32)
    projected, small = [], np.empty((0, 0))
    kept, gain = 0.0, 0.0
    while True:
        block = _orthonormal(block, basis)
        basis = np.hstack([basis, block])
        projected.append(matmul(block.T, matrix))
        small = _bordered(small, projected)
        size = basis.shape[1]
        if size >= rank:
            before, kept = kept, float(eigh(small, eigvals_only=True)[-rank:].sum())
            last, gain = gain, kept - before
            # The gains fall about geometrically; their sum to come is gain^2 / (last - gain).
            settled = max(_SETTLED * (total - kept), 1e-10 * total)
            if size >= 2 * rank and gain**2 <= settled * max(0.0, last - gain):
                break
        if size + width > rows:
            break
        block = matmul(matrix, projected[-1].T)
    chosen = eigh(small, subset_by_index=[size - rank, size - 1])[1]
    chosen = chosen[:, ::-1].astype(np.float32)
    right = np.zeros((rank, columns), np.float32)
    for i, piece in enumerate(projected):
        right += matmul(chosen[i * width : (i + 1) * width].T, piece)
    return matmul(basis, chosen), right


def _orthonormal(block: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the block's columns, orthogonal to ``basis`` (two passes)."""
    for _ in range(2 if basis.shape[1] else 1):
        if basis.shape[1]:
            block = block - matmul(basis, matmul(basis.T, block))
        block = orthonormal(block)
    return block


def _bordered(small: np.ndarray, projected: list[np.ndarray]) -> np.ndarray:
    """The Gram matrix of the stacked projections, extended by the last of them."""
    last = np.vstack([matmul(piece, projected[-1].T) for piece in projected]).astype(np.float64)
    return np.block([[small, last[: len(small)]], [last.T]])


def residual(matrix: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """||A - left right||^2 by row blocks, in bounded memory."""
    total = 0.0
    step = max(1, _CHUNK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        rows = slice(start, start + step)
        total += squared_norm(matrix[rows] - matmul(np.ascontiguousarray(left[rows]), right))
    return total
