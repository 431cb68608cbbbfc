import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ptycho.data.groups import covering_groups, nearest_groups, sample_groups


def scattered(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (n, 2))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_every_position_is_a_centre_with_its_nearest_others(n, group_size, seed):
    positions = scattered(n, seed)
    group_size = min(group_size, n)
    groups = nearest_groups(positions, group_size, group_size)
    assert groups.dtype == np.int64
    assert groups[:, 0].tolist() == list(range(n))
    nearest = np.sort(cdist(positions, positions), axis=1)[:, :group_size]
    assert np.allclose(np.linalg.norm(positions[groups] - positions[:, None], axis=2), nearest)


@given(st.integers(1, 60), st.sampled_from([1, 4, 9]), st.integers(0, 99))
def test_covering_groups_hold_every_position_as_new_once(n, group_size, seed):
    group_size = min(group_size, n)
    groups, is_new = covering_groups(scattered(n, seed), group_size)
    assert sorted(groups[is_new].tolist()) == list(range(n))
    assert is_new[:, 0].all()
    assert all(len(set(group)) == group_size for group in groups.tolist())


@pytest.mark.parametrize(("group_size", "most"), [(4, 1.25), (9, 1.4)])
def test_covering_groups_are_few_and_near(group_size, most):
    positions = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2)
    positions += np.random.default_rng(0).uniform(-0.3, 0.3, positions.shape)
    groups, _ = covering_groups(positions, group_size)
    assert len(groups) < most * len(positions) / group_size
    reach = np.linalg.norm(positions[groups] - positions[groups[:, :1]], axis=2)
    assert reach.max() < 2 * np.sqrt(group_size)


@given(st.integers(2, 30), st.integers(0, 99))
def test_no_group_holds_a_frame_twice(n, seed):
    size = min(4, n)
    for groups in (
        nearest_groups(scattered(n, seed), size, 5),
        sample_groups(scattered(n, seed), 50, size, 5, np.random.default_rng(seed), oversampling=True),
    ):
        assert all(len(set(group)) == size for group in groups.tolist())


def test_coinciding_positions_still_come_first_in_their_own_group():
    positions = np.zeros((9, 2))
    groups = nearest_groups(positions, 4, 4)
    assert groups[:, 0].tolist() == list(range(9))
    assert all(len(set(group)) == 4 for group in groups.tolist())


def test_groups_of_one_are_the_frames():
    assert nearest_groups(scattered(5), 1, 4).tolist() == [[0], [1], [2], [3], [4]]


def test_a_shifted_and_scaled_scan_has_the_same_groups():
    positions = scattered(50)
    assert np.array_equal(nearest_groups(positions, 4, 6), nearest_groups(positions * 3 - 1000, 4, 6))


def test_sampled_members_are_among_the_nearest_neighbours_of_the_centre():
    positions = scattered(60)
    near = nearest_groups(positions, 7, 6)
    groups = sample_groups(positions, 60, 4, 6, np.random.default_rng(1))
    assert all(set(group) <= set(near[group[0]].tolist()) for group in groups.tolist())


def test_a_pool_widens_the_choice():
    positions = scattered(60)
    near = nearest_groups(positions, 4, 3)
    wide = sample_groups(positions, 600, 4, 3, np.random.default_rng(1), pool_size=12, oversampling=True)
    assert any(not set(group) <= set(near[group[0]].tolist()) for group in wide.tolist())


def test_few_groups_have_different_centres():
    groups = sample_groups(scattered(60), 40, 4, 6, np.random.default_rng(1))
    assert groups.shape == (40, 4)
    assert len(set(groups[:, 0].tolist())) == 40


def test_more_groups_than_positions_repeat_centres_evenly():
    groups = sample_groups(scattered(20), 50, 4, 6, np.random.default_rng(1))
    assert set(np.bincount(groups[:, 0], minlength=20).tolist()) == {2, 3}


def test_the_generator_decides_the_sample():
    one, same, other = (sample_groups(scattered(60), 40, 4, 6, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    ("n", "size", "count", "words"),
    [
        (20, 4, 2, r"neighbor_count = 2: a group of 4 takes at least 3"),
        (3, 4, 4, r"group_size = 4: the scan has 3 positions"),
        (3, 0, 4, r"group_size = 0"),
    ],
)
def test_a_group_that_cannot_be_filled_is_refused_with_the_numbers(n, size, count, words, sampled):
    with pytest.raises(ValueError, match=words):
        if sampled:
            sample_groups(scattered(n), 5, size, count, np.random.default_rng(0))
        else:
            nearest_groups(scattered(n), size, count)
