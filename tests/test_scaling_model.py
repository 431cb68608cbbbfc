"""The model of benchmarks/scaling.py keeps the laws that its figures rest on."""

import math

import numpy as np
import pytest

from benchmarks.scaling_model import (
    Costs,
    Network,
    Workload,
    fit_lines,
    largest_halo,
    reconstruction,
    refinement_epoch,
    training_step,
)
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho_torch.phase_sync import neighbours_of

AT_ONCE = Network(0.0, math.inf)
COSTS = Costs(
    step_s=0.0, group_s=0.01, gradient_bytes=1e6, frame_s=0.01, solve_s=0.0, refined_frame_s=1e-3, refined_batch_s=0.0,
    px_s=0.0,
)  # fmt: skip


def workload(side=16):
    raster = np.stack(np.divmod(np.arange(side**2), side), 1) * 7.0
    return Workload(raster, 176**2, 64, 32, training_batch=64, refine_batch=64)


def test_where_everything_is_shared_and_nothing_is_sent_n_ranks_take_an_nth():
    work = workload()
    for seconds in (
        lambda n: sum(training_step(work, COSTS, AT_ONCE, n).values()),
        lambda n: sum(reconstruction(work, COSTS, AT_ONCE, n, halo=0).values()),
        lambda n: sum(refinement_epoch(work, COSTS, AT_ONCE, n).values()),
    ):
        assert seconds(8) == pytest.approx(seconds(1) / 8)


def test_one_rank_sends_nothing():
    slow = Network(1.0, 1.0)
    assert sum(training_step(workload(), COSTS, slow, 1).values()) == pytest.approx(0.64)
    assert largest_halo(workload(), 1) == 0


@pytest.mark.parametrize("n", [2, 5])
def test_the_halo_is_what_reconstruction_asks_for(n):
    work = workload()
    order = hilbert_order(work.positions_px)
    owned = [order[slice(*shard_bounds(work.n_frames, rank, n))] for rank in range(n)]
    assert largest_halo(work, n) == max(len(neighbours_of(part, work.positions_px, work.window_px)) for part in owned)


def test_costs_are_found_again_from_the_seconds_that_they_make():
    assert fit_lines([[1, 16], [1, 4]], [0.5 + 16 * 0.1, 0.5 + 4 * 0.1]) == pytest.approx([0.5, 0.1])
