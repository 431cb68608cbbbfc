from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ptycho.data.formats import open_scan
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.groups import nearest_groups
from ptycho.data.scan import Scan
from ptycho.data.sharding import hilbert_order, shard_bounds, shard_scan, split_by_region, stratified_batches
from tests.builders import CountingFrames, make_scan, raster


def scattered(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (n, 2))


@given(st.integers(1, 60), st.integers(0, 99))
def test_the_curve_visits_every_position_once(n, seed):
    assert sorted(hilbert_order(scattered(n, seed)).tolist()) == list(range(n))


def test_consecutive_points_of_a_full_square_are_neighbours():
    positions = raster(64, 1.0) * (2**16 - 1) / 2**16
    steps = np.linalg.norm(np.diff(raster(64, 1.0)[hilbert_order(positions)], axis=0), axis=1)
    assert (steps == 1).all()


def test_the_curve_does_not_depend_on_place_or_scale():
    positions = raster(64, 1.0)
    assert np.array_equal(hilbert_order(positions), hilbert_order(positions * 7.5 + [1000, -3]))


def test_positions_that_coincide_or_lie_on_a_line_are_ordered_too():
    assert sorted(hilbert_order(np.zeros((5, 2))).tolist()) == [0, 1, 2, 3, 4]
    line = np.stack([np.zeros(10), np.arange(10.0)], axis=1)
    assert hilbert_order(line).tolist() in (list(range(10)), list(range(9, -1, -1)))


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("n", [0, 1, 5, 8, 9, 100, 101])
def test_bounds_cut_everything_into_nearly_equal_pieces(n, size):
    bounds = [shard_bounds(n, rank, size) for rank in range(size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    lengths = [stop - start for start, stop in bounds]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_the_ranks_is_refused(rank, size):
    with pytest.raises(ValueError, match="rank"):
        shard_bounds(10, rank, size)


@pytest.mark.parametrize("size", range(1, 10))
def test_every_frame_has_one_owner(size):
    positions = scattered(50)
    owned = np.concatenate([shard_scan(positions, rank, size, 10.0).owned for rank in range(size)])
    assert sorted(owned.tolist()) == list(range(50))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_halo_is_what_lies_within_reach_and_belongs_to_others(size):
    positions = scattered(80)
    distances = cdist(positions, positions)
    for rank in range(size):
        shard = shard_scan(positions, rank, size, 12.0)
        near = set(np.flatnonzero((distances[shard.owned] <= 12.0).any(axis=0)).tolist())
        assert set(shard.halo.tolist()) == near - set(shard.owned.tolist())


def test_a_halo_that_reaches_the_farthest_neighbour_holds_every_group_of_the_owned_frames():
    positions = scattered(200)
    groups = nearest_groups(positions, 5, 4)
    reach = np.linalg.norm(positions[groups] - positions[:, None], axis=2).max()
    for rank in range(4):
        shard = shard_scan(positions, rank, 4, reach)
        assert set(groups[shard.owned].ravel().tolist()) <= {*shard.owned.tolist(), *shard.halo.tolist()}


def test_shards_are_compact():
    positions = raster(1024, 1.0)
    for rank in range(4):
        spread = np.ptp(positions[shard_scan(positions, rank, 4, 1.0).owned], axis=0)
        assert spread.tolist() == [15, 15]


def test_one_rank_has_no_halo_and_more_ranks_than_frames_leave_empty_shards():
    assert len(shard_scan(scattered(5), 0, 1, 100.0).halo) == 0
    shards = [shard_scan(scattered(3), rank, 5, 100.0) for rank in range(5)]
    assert sum(len(shard.owned) for shard in shards) == 3
    assert any(len(shard.owned) == 0 and len(shard.halo) == 0 for shard in shards)


def test_a_rank_reads_its_own_frames_from_the_file_and_no_others(tmp_path):
    write_scan(make_scan(n=36), tmp_path / "scan.h5")
    scan = open_scan(tmp_path / "scan.h5")
    counting = CountingFrames(scan.frames)
    scan = Scan(**{**vars(scan), "frames": counting})
    shard = shard_scan(scan.positions_px, 1, 3, 3.1)
    scan.frames.read(np.concatenate([shard.owned, shard.halo]))
    assert counting.touched == {*shard.owned.tolist(), *shard.halo.tolist()}
    assert len(counting.touched) < 36


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 99))
def test_batches_hold_every_frame_once_and_are_nearly_equal(n, batch_size, seed):
    batches = stratified_batches(np.random.default_rng(seed).permutation(n), batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert len(batches) == -(-n // batch_size)
    assert max(map(len, batches)) <= batch_size
    missing = len(batches) * max(map(len, batches)) - n
    assert missing <= max(len(batches), 1) * 3


def test_a_last_frame_too_many_does_not_make_a_batch_of_one():
    batches = stratified_batches(np.arange(33), 32, np.random.default_rng(0))
    assert sorted(map(len, batches)) == [16, 17]


def test_every_shard_has_nearly_the_same_share_of_every_batch():
    order = hilbert_order(scattered(512))
    batches = stratified_batches(order, 32, np.random.default_rng(0))
    for rank in range(4):
        start, stop = shard_bounds(512, rank, 4)
        shares = [np.isin(batch, order[start:stop]).sum() for batch in batches]
        assert set(shares) == {8}


def test_members_of_a_batch_lie_far_apart():
    positions = raster(1024, 1.0)
    batch = stratified_batches(hilbert_order(positions), 16, np.random.default_rng(0))[3]
    boxes = set(map(tuple, (positions[batch] // 8).tolist()))
    assert len(boxes) == 16


def test_the_generator_decides_the_batches():
    def first(seed):
        return stratified_batches(np.arange(100), 10, np.random.default_rng(seed))[0].tolist()

    assert first(1) == first(1)
    assert first(1) != first(2)


@given(st.integers(1, 300), st.floats(0, 0.4), st.floats(1, 60), st.integers(0, 99))
def test_no_validation_window_meets_a_training_window(n, fraction, window, seed):
    positions = scattered(n, seed)
    training, validation = split_by_region(positions, fraction, window, np.random.default_rng(seed))
    assert not set(training.tolist()) & set(validation.tolist())
    assert len(training) >= n / 2
    if len(validation):
        assert len(validation) == int(n * fraction)
        assert cdist(positions[training], positions[validation], "chebyshev").min() >= window
    else:
        assert len(training) == n


def test_validation_is_one_region():
    positions = raster(1024, 1.0)
    _, validation = split_by_region(positions, 0.1, 3.0, np.random.default_rng(0))
    assert len(validation) == 102
    height, width = np.ptp(positions[validation], axis=0) + 1
    assert height * width <= 1.5 * 102


def test_a_tiny_scan_is_not_split():
    training, validation = split_by_region(scattered(9), 0.1, 10.0, np.random.default_rng(0))
    assert training.tolist() == list(range(9))
    assert len(validation) == 0


def test_two_generators_hold_out_two_regions():
    regions = [split_by_region(scattered(200), 0.1, 5.0, np.random.default_rng(seed))[1].tolist() for seed in (0, 1, 0)]
    assert regions[0] == regions[2]
    assert regions[0] != regions[1]
