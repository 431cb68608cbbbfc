import numpy as np
import pytest
from scipy.spatial import cKDTree

from ptycho_torch.simulate.paths import PATHS


def path(kind, n=400, step=7.0, jitter=1.5, seed=0):
    return PATHS[kind](n, step, jitter, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_has_the_density_of_one_position_per_step_squared(kind):
    positions = path(kind, n=2500)
    inner = np.abs(positions).max(axis=1) < 100
    assert positions.shape == (2500, 2)
    assert positions.dtype == np.float64
    assert inner.sum() == pytest.approx((200 / 7) ** 2, rel=0.07)


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_is_centred_and_leaves_no_hole(kind):
    positions = path(kind)
    assert np.abs(positions.mean(axis=0)).max() < 3
    y, x = np.mgrid[-40:41:4, -40:41:4]
    far, _ = cKDTree(positions).query(np.stack([y.ravel(), x.ravel()], axis=1))
    assert far.max() < 1.05 * 7


@pytest.mark.parametrize("kind", ["raster", "spiral", "fermat"])
def test_neighbours_are_about_one_step_apart(kind):
    near = cKDTree(path(kind)).query(path(kind), 2)[0][:, 1]
    assert np.median(near) == pytest.approx(7, rel=0.2)


def test_a_raster_runs_along_rows_first():
    positions = path("raster", n=9, step=2)
    assert positions[1] - positions[0] == pytest.approx([0, 2])
    assert positions[3] - positions[0] == pytest.approx([2, 0])


def test_jitter_moves_every_point_by_at_most_the_jitter_and_by_seed():
    moves = path("jittered") - path("raster")
    assert np.abs(moves).max() <= 1.5
    assert np.abs(moves).mean() == pytest.approx(0.75, rel=0.1)
    assert np.array_equal(path("jittered", seed=3), path("jittered", seed=3))
    assert not np.allclose(path("jittered", seed=3), path("jittered", seed=4))


@pytest.mark.parametrize("kind", PATHS)
def test_one_position_is_a_path(kind):
    assert path(kind, n=1, jitter=0).tolist() == [[0, 0]]
