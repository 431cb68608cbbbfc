"""Seconds of a training step, a reconstruction and a refinement epoch on any number of ranks, from measured costs.

The costs of computing are measured on one rank; the network is two numbers. What does not get less with more ranks is
written down term by term, so that the largest of them says why more ranks do not help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho_torch.phase_sync import overlap_pairs


@dataclass(frozen=True)
class Network:
    """latency_s: of one message; bytes_per_s: of one rank's link."""

    latency_s: float
    bytes_per_s: float

    def all_sum_s(self, n_bytes: float, n: int) -> float:
        """A tree of messages up and down; the bytes of a ring (Thakur, Rabenseifner & Gropp 2005, sections 3 and 4)."""
        return 0.0 if n == 1 else 2 * math.ceil(math.log2(n)) * self.latency_s + self._ring_s(n_bytes, n)

    def ordered_mean_s(self, n_bytes: float, n: int) -> float:
        """Gradients: one message to every other rank, and one from every other rank back."""
        return 0.0 if n == 1 else 2 * (n - 1) * self.latency_s + self._ring_s(n_bytes, n)

    def _ring_s(self, n_bytes: float, n: int) -> float:
        return 2 * (n - 1) / n * n_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Costs:
    """What one rank was measured to need.

    step_s, group_s:         of a training step, and of each group in it
    gradient_bytes:          of the trainable weights
    frame_s:                 to infer one frame
    solve_s:                 of rank 0, for the phases, for each frame of the scan
    refined_frame_s:         for one frame in an epoch of refinement
    refined_batch_s, px_s:   for each batch, and for each object pixel in each batch
    """

    step_s: float
    group_s: float
    gradient_bytes: float
    frame_s: float
    solve_s: float
    refined_frame_s: float
    refined_batch_s: float
    px_s: float


@dataclass(frozen=True)
class Workload:
    """A scan and how it is worked on.

    positions_px: (frame, 2); object_px: pixels of the object; window_px: width of the patches that the network sees
    """

    positions_px: NDArray[np.float64]
    object_px: int
    patch_px: int
    window_px: int
    training_batch: int
    refine_batch: int

    @property
    def n_frames(self) -> int:
        return len(self.positions_px)


Terms = dict[str, float]


def training_step(work: Workload, costs: Costs, network: Network, n: int) -> Terms:
    """Seconds of one step of all ranks, by what they are spent on."""
    return {
        "groups of the rank": math.ceil(work.training_batch / n) * costs.group_s,
        "fixed part of a step": costs.step_s,
        "sum of gradients": network.ordered_mean_s(costs.gradient_bytes, n),
        "agreement to go on": 2 * network.all_sum_s(16, n),
    }


def reconstruction(work: Workload, costs: Costs, network: Network, n: int, halo: int) -> Terms:
    """Seconds of one pass over the scan; halo: most frames that a rank infers beyond its own."""
    return {
        "frames of the rank": math.ceil(work.n_frames / n) * costs.frame_s,
        "neighbours' frames": halo * costs.frame_s,
        "phases, on rank 0": work.n_frames * costs.solve_s,
        "sum of canvases": network.all_sum_s(12 * work.object_px, n),
    }


def refinement_epoch(work: Workload, costs: Costs, network: Network, n: int) -> Terms:
    """Seconds of one sweep over the scan."""
    n_batches = math.ceil(work.n_frames / work.refine_batch)
    sums_bytes = 12 * (work.object_px + work.patch_px**2)
    return {
        "frames of the rank": n_batches * math.ceil(work.refine_batch / n) * costs.refined_frame_s,
        "update of the whole object": n_batches * (costs.refined_batch_s + costs.px_s * work.object_px),
        "sum of updates": n_batches * network.all_sum_s(sums_bytes, n),
    }


def largest_halo(work: Workload, n: int) -> int:
    """Most neighbours' frames that any of n ranks needs."""
    if n == 1:
        return 0
    order = hilbert_order(work.positions_px)
    rank_of = np.empty(work.n_frames, np.int64)
    for rank in range(n):
        first, last = shard_bounds(work.n_frames, rank, n)
        rank_of[order[first:last]] = rank
    pairs = overlap_pairs(work.positions_px, work.window_px)
    asks, owns = rank_of[pairs[:, 0]], rank_of[pairs[:, 1]]
    wanted = np.unique(np.stack([asks, pairs[:, 1]])[:, asks != owns], axis=1)
    return int(np.bincount(wanted[0], minlength=n).max())


def fit_lines(rows: list[list[float]], seconds: list[float]) -> list[float]:
    """Costs, none below zero, with which the rows (how often each is paid) explain the seconds."""
    from scipy.optimize import nnls

    scale = 1 / np.asarray(seconds)  # relative errors count alike
    return [float(cost) for cost in nnls(np.asarray(rows) * scale[:, None], np.ones(len(seconds)))[0]]
