"""Groups and batches: pure functions of positions, seed, epoch and number."""

import numpy as np
import pytest

from ptycho.data.scan import ArrayFrames
from ptycho.errors import ModelError
from ptycho_torch.pinn.datamodule import GroupDataModule
from ptycho_torch.pinn.frame_cache import FrameCache
from ptycho_torch.pinn.sampling import choose_groups, epoch_batches, shard_of_groups
from tests.pinn.pinn_scans import cpu, small_config, small_scan
from tests.thread_ranks import run_on_ranks

POSITIONS = small_scan(side=20).positions_px


class _CountingFrames(ArrayFrames):
    """Remembers which frames were read."""

    def read(self, indices):
        self.__dict__.setdefault("touched", set()).update(int(i) for i in indices)
        return super().read(indices)


def data_of(scan, ranks, split=None, **changes):
    config = small_config(gridsize=2, n_groups=scan.n_positions, **changes)
    split = split or choose_groups(scan.positions_px, config, 16, seed=1, validation_fraction=0.0)
    return GroupDataModule(scan, split, config, cpu(), seed=1, ranks=ranks, window=16)


def test_no_frame_is_both_trained_on_and_validated_on():
    split = choose_groups(POSITIONS, small_config(gridsize=2, n_groups=300), 16, seed=3, validation_fraction=0.1)
    assert len(split.validation) == 40
    assert not set(split.training.ravel()) & set(split.validation.ravel())
    nearest = np.abs(POSITIONS[split.training.ravel()][:, None] - POSITIONS[split.validation.ravel()][None]).max(-1)
    assert nearest.min() >= 16


def test_no_validation_where_nothing_shall_be_held_out():
    assert not len(choose_groups(POSITIONS, small_config(), 16, seed=3, validation_fraction=0.0).validation)


def test_groups_and_batches_repeat_with_the_seed_and_change_with_it():
    config = small_config(gridsize=2, n_groups=200)
    first, again, other = (choose_groups(POSITIONS, config, 16, seed).training for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    batches = [epoch_batches(POSITIONS, first, config, 1, epoch) for epoch in (0, 0, 1)]
    assert all((a == b).all() for a, b in zip(batches[0], batches[1], strict=True))
    assert any((a != b).any() for a, b in zip(batches[0], batches[2], strict=True))


def test_an_epoch_takes_every_group_once():
    config = small_config(gridsize=2, n_groups=203)
    groups = choose_groups(POSITIONS, config, 16, 1).training
    batches = epoch_batches(POSITIONS, groups, config, 1, 4)
    assert sorted(np.concatenate(batches)) == list(range(203))
    assert max(map(len, batches)) <= config.batch_size


def test_sequential_sampling_keeps_the_order():
    config = small_config(n_groups=50, sequential_sampling=True)
    groups = choose_groups(POSITIONS, config, 16, 1).training
    assert (np.concatenate(epoch_batches(POSITIONS, groups, config, 1, 4)) == np.arange(50)).all()


def test_a_subsample_is_all_that_is_used_and_follows_its_own_seed():
    config = small_config(gridsize=2, n_groups=100, n_subsample=60, subsample_seed=5)
    one, two = (choose_groups(POSITIONS, config, 16, seed, validation_fraction=0.0).training for seed in (1, 2))
    assert set(one.ravel()) <= set(two.ravel()) | set(one.ravel())
    assert len(set(one.ravel()) | set(two.ravel())) <= 60


@pytest.mark.parametrize("size", range(1, 6))
def test_every_group_has_one_owner(size):
    groups = choose_groups(POSITIONS, small_config(gridsize=2, n_groups=101), 16, 1).training
    owned = [shard_of_groups(POSITIONS, groups, rank, size) for rank in range(size)]
    assert sorted(np.concatenate(owned)) == list(range(101))


def test_too_few_frames_for_a_group_is_one_sentence():
    with pytest.raises(ModelError, match="takes 9 frames, but there are 4"):
        choose_groups(POSITIONS[:4], small_config(gridsize=3), 16, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_each_batch_and_take_equally_many(size):
    scan = small_scan(side=7)

    def work(ranks):
        data = data_of(scan, ranks)
        return data.mean_photons, [(batch.positions_px[:, 0], batch.share) for batch in data.train_dataloader()]

    results = run_on_ranks(size, work)
    photons = {photons for photons, _ in results}
    assert len(photons) == 1
    assert photons.pop() == pytest.approx(scan.frames.counts.sum((1, 2)).mean())
    assert {len(batches) for _, batches in results} == {7}
    for parts in zip(*(batches for _, batches in results), strict=True):
        assert sum(float(share.sum()) for _, share in parts) == pytest.approx(1)
        centres = np.concatenate([positions[share > 0] for positions, share in parts])
        assert len(np.unique(centres, axis=0)) == len(centres)


def test_a_rank_reads_only_the_frames_of_its_groups():
    def touched(size):
        def work(ranks):
            scan = small_scan(side=12, step_px=4.0)
            frames = _CountingFrames(scan.frames.counts)
            object.__setattr__(scan, "frames", frames)
            data = data_of(scan, ranks)
            needed = set(
                data.split.training[shard_of_groups(scan.positions_px, data.split.training, ranks.rank, size)].ravel()
            )
            assert frames.touched == needed
            return len(frames.touched)

        return run_on_ranks(size, work)

    assert touched(1) == [144]
    assert max(touched(4)) < 80


def test_more_ranks_than_groups_still_take_part():
    scan = small_scan(side=2)

    def work(ranks):
        return [float(batch.share.sum()) for batch in data_of(scan, ranks).train_dataloader()]

    shares = run_on_ranks(5, work)
    assert {len(part) for part in shares} == {1}
    assert sum(part[0] for part in shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "kind"),
    [
        ([0, 200], np.uint8),
        ([0, 300], np.uint16),
        ([0, 70000], np.uint32),
        ([0, 0.5], np.float32),
        ([0, 3e7], np.float32),
    ],
)
def test_cached_frames_are_exact_in_the_smallest_type(counts, kind):
    frames = np.resize(np.array(counts, np.float64), (3, 4, 4))
    cache = FrameCache(ArrayFrames(frames), np.array([2, 0]), None)
    assert cache.counts(np.array([0])).numpy().max() == max(counts)
    assert cache.n_bytes == 2 * 16 * np.dtype(kind).itemsize


def test_resumed_batches_are_those_that_were_left():
    scan = small_scan(side=7)
    data = run_on_ranks(1, lambda ranks: data_of(scan, ranks))[0]
    whole = [batch.positions_px for batch in data.train_dataloader()]
    data.resume_at(0, 3)
    left = [batch.positions_px for batch in data.train_dataloader()]
    assert len(left) == len(whole) - 3
    assert all((a == b).all() for a, b in zip(left, whole[3:], strict=True))
