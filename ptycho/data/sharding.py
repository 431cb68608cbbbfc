"""Shards: which part of a scan each rank owns, and how batches and validation are cut out of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Cells on each side of the square that the Hilbert curve fills: finer than any scan has positions.
_HILBERT_BITS = 16


@dataclass(frozen=True)
class Shard:
    """The part of a scan that one rank works on: scan indices, owned ones in curve order, halo ones ascending.

    owned: frames that this rank answers for; every frame has one owner
    halo:  frames of other ranks that lie within reach of an owned one
    """

    owned: NDArray[np.int64]
    halo: NDArray[np.int64]


def hilbert_order(positions_px: NDArray[np.float64]) -> NDArray[np.int64]:
    """Permutation that walks the positions (position, 2) along a Hilbert curve: neighbours in it are neighbours there.

    The mapping from square to curve is that of Hilbert (1891), one quadrant decision for each bit, vectorised.
    """
    low = positions_px.min(axis=0)
    extent = max(float(np.ptp(positions_px, axis=0).max()), 1e-12)
    cells = np.minimum((positions_px - low) / extent * 2**_HILBERT_BITS, 2**_HILBERT_BITS - 1).astype(np.int64)
    y, x = cells[:, 0].copy(), cells[:, 1].copy()
    distance = np.zeros(len(cells), np.int64)
    for bit in range(_HILBERT_BITS - 1, -1, -1):
        right, upper = (x >> bit) & 1, (y >> bit) & 1
        distance += ((3 * right) ^ upper) << (2 * bit)
        turn = upper == 0
        mirror = turn & (right == 1)
        side = (1 << bit) - 1
        x, y = x & side, y & side
        x[mirror], y[mirror] = side - x[mirror], side - y[mirror]
        x[turn], y[turn] = y[turn], x[turn].copy()
    return np.argsort(distance, kind="stable").astype(np.int64)


def shard_bounds(n: int, rank: int, size: int) -> tuple[int, int]:
    """First and one past the last of the items that a rank owns: contiguous pieces whose sizes differ by at most 1."""
    if not 0 <= rank < size:
        raise ValueError(f"rank = {rank}: must be at least 0 and below size = {size}")
    return n * rank // size, n * (rank + 1) // size


def shard_scan(positions_px: NDArray[np.float64], rank: int, size: int, reach_px: float) -> Shard:
    """The shard of one rank: a contiguous piece of the Hilbert curve, and the foreign frames within reach of it."""
    # 25 MB that a job without a network does without.
    from scipy.spatial import cKDTree

    start, stop = shard_bounds(len(positions_px), rank, size)
    owned = hilbert_order(positions_px)[start:stop]
    if size == 1 or not len(owned):
        return Shard(owned, np.empty(0, np.int64))
    distance = np.asarray(cKDTree(positions_px[owned]).query(positions_px)[0])
    near = distance <= reach_px
    near[owned] = False
    return Shard(owned, np.flatnonzero(near).astype(np.int64))


def stratified_batches(
    order: NDArray[np.int64] | Sequence[int], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of scan indices in which the members lie far apart, the same for every number of ranks.

    order: positions along a space-filling curve. The curve is cut into at most `batch_size` strata; batch k takes the
    k-th frame of each stratum's own permutation. So every batch is spread evenly over the scan, and every contiguous
    shard owns nearly the same share of each batch. There are as few batches as `batch_size` allows, of nearly equal
    size: a small last batch would move the object as far as a full one, on less evidence.
    """
    indices = np.asarray(order, dtype=np.int64)
    n = len(indices)
    n_batches = max(1, math.ceil(n / max(1, batch_size)))
    n_strata = math.ceil(n / n_batches)
    table = np.full((n_strata, n_batches), -1, dtype=np.int64)
    for stratum in range(n_strata):
        start, stop = shard_bounds(n, stratum, n_strata)
        # Permuting the empty slots too spreads short strata over all batches, so that no batch is much smaller.
        table[stratum, rng.permutation(n_batches)[: stop - start]] = indices[start:stop]
    return [column[column >= 0] for column in table.T if (column >= 0).any()]


def compact_batches(
    order: NDArray[np.int64] | Sequence[int], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of neighbours, in random order: contiguous pieces of the curve, whose cuts move from call to call.

    A batch lies on one rank, or on a few, so ranks wait for one another; each sees much of one place at once.
    """
    indices = np.asarray(order, dtype=np.int64)
    n_batches = max(1, math.ceil(len(indices) / max(1, batch_size)))
    turned = np.roll(indices, int(rng.integers(len(indices))))
    pieces = [turned[slice(*shard_bounds(len(turned), piece, n_batches))] for piece in range(n_batches)]
    return [pieces[piece] for piece in rng.permutation(n_batches)]


def uniform_batches(
    order: NDArray[np.int64] | Sequence[int], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of frames drawn at random, of nearly equal size."""
    indices = rng.permutation(np.asarray(order, dtype=np.int64))
    n_batches = max(1, math.ceil(len(indices) / max(1, batch_size)))
    return [indices[slice(*shard_bounds(len(indices), batch, n_batches))] for batch in range(n_batches)]


def split_by_region(
    positions_px: NDArray[np.float64], fraction: float, window_px: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and validation indices, ascending: validation is one compact region, and no window of it meets training.

    fraction:  part of the positions to hold out
    window_px: width of the lit part of a window; positions of the rim, closer than this (in y and in x) to a held-out
               one, would let the network see light that validation is judged on, and belong to neither
    Validation is empty when the scan is too small to leave at least half of its positions for training.
    """
    from scipy.spatial import cKDTree

    n = len(positions_px)
    everything = np.arange(n, dtype=np.int64)
    wanted = math.floor(n * fraction)
    if wanted < 1:
        return everything, everything[:0]
    centre = positions_px[rng.integers(n)]
    held = np.argsort(np.abs(positions_px - centre).max(axis=1), kind="stable")[:wanted]
    tree = cKDTree(positions_px[held])
    distance = np.asarray(tree.query(positions_px, p=np.inf, distance_upper_bound=window_px)[0])
    training = np.flatnonzero(distance >= window_px).astype(np.int64)
    if len(training) < n / 2:
        return everything, everything[:0]
    return training, np.sort(held).astype(np.int64)
