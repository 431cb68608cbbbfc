"""Phase synchronisation: the global phase that each patch is free to have, made the same across overlaps.

One diffraction pattern does not know the global phase of its patch. Neighbouring patches agree where they overlap, up
to one phase each: M_ij = Σ w·conj(o_i)·o_j has the phase difference as its argument, and the leading eigenvector of
D^(-1/2) M D^(-1/2), with D the row sums of |M|, holds the phases that agree best (Marchesini, Tu & Wu, "Alternating
projection, ptychographic imaging and phase synchronization", Appl. Comput. Harmon. Anal. 41, 815 (2016)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, eigsh, splu
from scipy.spatial import cKDTree
from torch import Tensor

from ptycho.parallel import Ranks, SerialRanks

NEIGHBOR_COUNT = 8

# An overlap that holds less than this part of the median overlap says nothing about the phase between two patches.
_WEAKEST_OVERLAP = 1e-6
# Shift of the inverse iteration, just above 1, the largest eigenvalue that a normalised matrix can have.
_SHIFT = 1 + 1e-4
_DENSE_SIZE = 32
_CHUNK_PX = 2**22


@dataclass(frozen=True)
class PhaseSync:
    """The solution, for every patch of the scan and the same on every rank.

    phasors:      (patch,) complex64 of modulus 1: multiply patch i by phasors[i]
    confidence:   (patch,) float32, 0 to 1: how far a patch's neighbours agree on its phase; 0 without neighbours
    component:    (patch,) int64, number of the connected piece of the scan that a patch belongs to
    n_components: pieces without overlap between them; the phase between two pieces stays unknown
    """

    phasors: NDArray[np.complex64]
    confidence: NDArray[np.float32]
    component: NDArray[np.int64]
    n_components: int


def overlap_pairs(
    positions_px: NDArray[np.float64], size: int, neighbor_count: int = NEIGHBOR_COUNT
) -> NDArray[np.int64]:
    """Pairs (pair, 2) of patches that overlap: each patch with its nearest neighbours, every pair once.

    The first of a pair has the second among its nearest neighbours, so the rank that owns the first needs, beyond
    its own patches, only the neighbours of its own.
    """
    n = len(positions_px)
    count = min(neighbor_count + 1, n)
    if count < 2:
        return np.empty((0, 2), np.int64)
    _, near = cKDTree(positions_px).query(positions_px, count)
    first, second = np.repeat(np.arange(n), count), near.ravel().astype(np.int64)
    apart = np.abs(np.rint(positions_px[second] - positions_px[first])).max(axis=1)
    keep = (first != second) & (apart < size)
    first, second = first[keep], second[keep]
    # A pair found from both sides is kept from its lower number.
    key, swapped = first * n + second, second * n + first
    once = (first < second) | ~np.isin(key, swapped)
    return np.stack([first[once], second[once]], axis=1)


def neighbours_of(
    owned: NDArray[np.int64], positions_px: NDArray[np.float64], size: int, neighbor_count: int = NEIGHBOR_COUNT
) -> NDArray[np.int64]:
    """The patches, beyond its own, that a rank must have to synchronise the patches that it owns; ascending."""
    pairs = overlap_pairs(positions_px, size, neighbor_count)
    return np.setdiff1d(pairs[np.isin(pairs[:, 0], owned), 1], owned)


@torch.no_grad()
def synchronise_phases(
    patches: Tensor,
    positions_px: NDArray[np.float64],
    weights: Tensor,
    *,
    indices: NDArray[np.int64] | None = None,
    owned: NDArray[np.int64] | None = None,
    ranks: Ranks | None = None,
    neighbor_count: int = NEIGHBOR_COUNT,
) -> PhaseSync:
    """Phases that make overlapping patches agree. Every rank must call it.

    patches:      (local, y, x) complex, square: the patches that this rank has
    positions_px: (patch, 2) centres (y, x) of all patches of all ranks; sub-pixel differences are rounded
    weights:      (y, x) or (local, y, x) real: the probe's intensity where the patch lies
    indices:      (local,) number of each local patch in `positions_px`; None means all, in order
    owned:        numbers of the patches that this rank answers for; each belongs to exactly one rank; None means all

    The gauge is fixed in each connected piece so that the weighted mean of its phasors is real and positive: patches
    that agree already stay as they are. Nothing else, such as a ramp, is removed. Raises ValueError when a neighbour
    of an owned patch is missing (`neighbours_of` lists them).
    """
    ranks = ranks or SerialRanks()
    n = len(positions_px)
    indices = np.arange(n) if indices is None else indices
    pairs = overlap_pairs(positions_px, patches.shape[-1], neighbor_count)
    mine = np.ones(len(pairs), bool) if owned is None else np.isin(pairs[:, 0], owned)
    values = np.zeros((len(pairs), 2))
    values[mine] = _overlaps(patches, positions_px, weights, pairs[mine], _local_numbers(indices, n))
    # Each pair is computed by one rank and is zero elsewhere, so this sum is exact in whatever order it is made.
    ranks.sum_to_root(values)
    solution = _solve(n, pairs, values[:, 0] + 1j * values[:, 1]) if ranks.rank == 0 else None
    shared = ranks.broadcast(solution)
    assert shared is not None
    return shared


def _local_numbers(indices: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Row of each patch among the local ones, -1 where it is not here."""
    local = np.full(n, -1)
    local[indices] = np.arange(len(indices))
    return local


def _overlaps(
    patches: Tensor,
    positions_px: NDArray[np.float64],
    weights: Tensor,
    pairs: NDArray[np.int64],
    local: NDArray[np.int64],
) -> NDArray[np.float64]:
    """M_ij of each pair, (pair, 2) real and imaginary part; pairs of equal offset are handled together."""
    rows = local[pairs]
    if (rows < 0).any():
        missing = np.unique(pairs[rows < 0])
        raise ValueError(f"patches {missing[:5]} … ({len(missing)} in all) are neighbours of this rank's but not here")
    result = np.zeros((len(pairs), 2))
    if not len(pairs):
        return result
    size = patches.shape[-1]
    lit = patches * weights.to(patches.device).sqrt()
    offsets = np.rint(positions_px[pairs[:, 1]] - positions_px[pairs[:, 0]]).astype(np.int64)
    # Turning pairs round halves the number of different offsets: M_ji = conj(M_ij).
    turn = (offsets[:, 0] < 0) | ((offsets[:, 0] == 0) & (offsets[:, 1] < 0))
    offsets[turn] *= -1
    rows[turn] = rows[turn, ::-1]
    key = offsets[:, 0] * (4 * size) + offsets[:, 1]
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=key[order[0]] - 1))
    step = max(1, _CHUNK_PX // size**2)
    for group in np.split(order, starts[1:]):
        (y1, x1), (y2, x2) = _shared_region(offsets[group[0]], size)
        for part in (group[k : k + step] for k in range(0, len(group), step)):
            number = torch.from_numpy(rows[part]).to(patches.device)
            a = lit[:, y1, x1].index_select(0, number[:, 0]).flatten(1)
            b = lit[:, y2, x2].index_select(0, number[:, 1]).flatten(1)
            result[part] = torch.view_as_real(torch.linalg.vecdot(a, b)).double().cpu().numpy()
    result[turn, 1] *= -1
    return result


def _shared_region(offset_px: NDArray[np.int64], size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices (y, x) of the overlap in the first patch and in the second, which lies `offset_px` (y ≥ 0) further."""
    dy, dx = int(offset_px[0]), int(offset_px[1])
    first = slice(dy, size), slice(max(dx, 0), size + min(dx, 0))
    second = slice(0, size - dy), slice(max(-dx, 0), size + min(-dx, 0))
    return first, second


def _solve(n: int, pairs: NDArray[np.int64], values: NDArray[np.complex128]) -> PhaseSync:
    strength = np.abs(values)
    strong = strength > (_WEAKEST_OVERLAP * np.median(strength) if len(strength) else 0)
    (first, second), values = pairs[strong].T, values[strong]
    matrix = sparse.csr_array((values, (first, second)), shape=(n, n))
    matrix = (matrix + matrix.conj().T).tocsr()
    degree = np.asarray(abs(matrix).sum(axis=1)).ravel()
    n_components, component = connected_components(abs(matrix), directed=False)
    phasors = np.ones(n, np.complex128)
    by_component = np.argsort(component, kind="stable")
    bounds = np.cumsum(np.bincount(component, minlength=n_components))[:-1]
    for members in np.split(by_component, bounds):
        if len(members) > 1:
            phasors[members] = _leading_phases(matrix[members][:, members], degree[members])
    told = matrix @ phasors
    agreement = np.real(phasors.conj() * told) / np.where(degree > 0, degree, 1)
    return PhaseSync(
        phasors=phasors.astype(np.complex64),
        confidence=agreement.clip(0, 1).astype(np.float32),
        component=component.astype(np.int64),
        n_components=int(n_components),
    )


def _leading_phases(
    matrix: sparse.csr_array[np.complex128, tuple[int, int]], degree: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Unit phasors of the leading eigenvector of D^(-1/2) M D^(-1/2), gauge fixed."""
    scale = 1 / np.sqrt(degree)
    normalised = sparse.csc_array(matrix.multiply(scale[:, None]).multiply(scale[None, :]))
    n = len(degree)
    if n <= _DENSE_SIZE:
        vector = np.linalg.eigh(normalised.toarray())[1][:, -1]
    else:
        # Inverse iteration just above the spectrum: on a scan of n patches the gap to the next eigenvalue shrinks
        # like 1/n, on which plain power or Lanczos iterations take thousands of steps.
        factor = splu(sparse.csc_array(_SHIFT * sparse.eye_array(n) - normalised), permc_spec="MMD_AT_PLUS_A")
        inverse = LinearOperator((n, n), matvec=factor.solve, dtype=np.complex128)
        start = np.sqrt(degree).astype(np.complex128)
        vector = eigsh(inverse, k=1, which="LA", v0=start, tol=1e-9)[1][:, 0]
    modulus = np.abs(vector)
    phasors = np.where(modulus > 0, vector / np.where(modulus > 0, modulus, 1), 1)
    mean = (degree * phasors).sum()
    if abs(mean) < 1e-6 * degree.sum():  # phases spread evenly have no mean: the strongest patch keeps its own
        mean = phasors[degree.argmax()]
    gauged: NDArray[np.complex128] = phasors * (abs(mean) / mean)
    return gauged
