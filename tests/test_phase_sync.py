"""Laws of phase synchronisation."""

import time

import numpy as np
import pytest
import torch

from ptycho.data.grid import ObjectGrid
from ptycho_torch.phase_sync import neighbours_of, overlap_pairs, synchronise_phases
from ptycho_torch.physics.patches import Windows, extract_patches
from tests.thread_ranks import run_on_ranks

SIZE = 16


def raster(n_side=9, step_px=5.0, jitter_px=1.0, seed=0):
    axis = np.arange(n_side) * step_px
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return grid + np.random.default_rng(seed).uniform(-jitter_px, jitter_px, grid.shape)


def smooth_object(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    phase = 0.6 * np.sin(y / 9) + 0.5 * np.cos((x + y) / 13)
    return torch.from_numpy(((0.9 + 0.1 * np.cos(x / 7)) * np.exp(1j * phase)).astype(np.complex64))


def patches_of_object(places, size=SIZE):
    grid = ObjectGrid.covering(places, size)
    windows = Windows.at(torch.from_numpy(grid.corners_px(places, size)), size, grid.shape)
    return extract_patches(smooth_object(grid.shape), windows)


def random_phasors(n, seed=0):
    return np.exp(2j * np.pi * np.random.default_rng(seed).random(n)).astype(np.complex64)


def turned(patches, phasors):
    return patches * torch.from_numpy(phasors)[:, None, None]


def phase_errors(found, given):
    """Angles of found · given about their mean, radians."""
    product = found * given
    return np.angle(product * np.conj(product.mean()))


def test_random_phases_of_noiseless_patches_are_found():
    places = raster()
    given = random_phasors(len(places))
    result = synchronise_phases(turned(patches_of_object(places), given), places, torch.ones(SIZE, SIZE))
    assert np.abs(phase_errors(result.phasors, given)).max() < 0.02
    assert result.n_components == 1
    assert result.confidence.min() > 0.99


def test_whole_pixel_positions_make_it_exact():
    places = raster(jitter_px=0)
    given = random_phasors(len(places))
    result = synchronise_phases(turned(patches_of_object(places), given), places, torch.ones(SIZE, SIZE))
    assert np.abs(phase_errors(result.phasors, given)).max() < 1e-5
    np.testing.assert_allclose(np.abs(result.phasors), 1, atol=1e-6)


def test_noise_is_averaged_over_the_overlaps():
    places = raster(12)
    given = random_phasors(len(places))
    noise = torch.randn(len(places), SIZE, SIZE, dtype=torch.complex64, generator=torch.Generator().manual_seed(3))
    result = synchronise_phases(turned(patches_of_object(places), given) + noise, places, torch.ones(SIZE, SIZE))
    assert np.sqrt((phase_errors(result.phasors, given) ** 2).mean()) < 0.1


def test_patches_that_agree_stay_as_they_are():
    places = raster(jitter_px=0)
    result = synchronise_phases(patches_of_object(places), places, torch.ones(SIZE, SIZE))
    np.testing.assert_allclose(result.phasors, 1, atol=1e-5)


def test_a_phase_common_to_all_patches_is_kept():
    places = raster(jitter_px=0)
    patches = patches_of_object(places) * torch.polar(torch.ones(1), torch.tensor([2.0]))
    np.testing.assert_allclose(synchronise_phases(patches, places, torch.ones(SIZE, SIZE)).phasors, 1, atol=1e-5)


def test_a_patch_of_noise_has_the_lowest_confidence():
    places = raster()
    patches = patches_of_object(places)
    patches[40] = torch.randn(SIZE, SIZE, dtype=torch.complex64, generator=torch.Generator().manual_seed(5))
    result = synchronise_phases(patches, places, torch.ones(SIZE, SIZE))
    assert result.confidence.argmin() == 40
    assert result.confidence[40] < 0.8


def test_pieces_of_a_scan_that_do_not_touch_are_reported_and_solved_apart():
    places = np.concatenate([raster(7), raster(4) + 500.0, [[-900.0, 0.0]]])
    given = random_phasors(len(places))
    patches = torch.from_numpy(given)[:, None, None] * torch.ones(len(places), SIZE, SIZE)
    result = synchronise_phases(patches, places, torch.ones(SIZE, SIZE))
    assert result.n_components == 3
    for piece in (slice(0, 49), slice(49, 65)):
        assert len(set(result.component[piece].tolist())) == 1
        assert np.abs(phase_errors(result.phasors[piece], given[piece])).max() < 1e-5
    assert result.phasors[-1] == 1 and result.confidence[-1] == 0


def test_a_chain_of_patches_is_followed_to_its_end():
    places = np.stack([np.zeros(200), np.arange(200) * 9.0], axis=1)
    given = random_phasors(200)
    result = synchronise_phases(turned(patches_of_object(places), given), places, torch.ones(SIZE, SIZE))
    assert np.abs(phase_errors(result.phasors, given)).max() < 1e-4


def test_bright_pixels_decide():
    places = raster(jitter_px=0)
    given = random_phasors(len(places))
    patches = turned(patches_of_object(places), given)
    patches[:, : SIZE // 4] = 5j
    weights = torch.ones(SIZE, SIZE)
    weights[: SIZE // 4] = 0
    result = synchronise_phases(patches, places, weights)
    assert np.abs(phase_errors(result.phasors, given)).max() < 1e-5


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_with_halo_find_what_one_rank_finds(size):
    places = raster()
    patches = turned(patches_of_object(places), random_phasors(len(places)))
    weights = torch.ones(SIZE, SIZE)
    alone = synchronise_phases(patches, places, weights)

    def work(ranks):
        owned = np.array_split(np.arange(len(places)), size)[ranks.rank]
        here = np.concatenate([owned, neighbours_of(owned, places, SIZE)])
        return synchronise_phases(patches[here], places, weights, indices=here, owned=owned, ranks=ranks)

    results = run_on_ranks(size, work)
    for result in results:
        assert np.array_equal(result.phasors, results[0].phasors)
        np.testing.assert_allclose(result.phasors, alone.phasors, atol=1e-5)
        np.testing.assert_allclose(result.confidence, alone.confidence, atol=1e-5)


def test_a_missing_neighbour_is_named():
    places = raster()
    owned = np.arange(10)
    with pytest.raises(ValueError, match="neighbours of this rank's but not here"):
        synchronise_phases(torch.ones(10, SIZE, SIZE) + 0j, places, torch.ones(SIZE, SIZE), indices=owned, owned=owned)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_scans_smaller_than_the_neighbour_count_work(n):
    places = raster(3)[:n]
    result = synchronise_phases(patches_of_object(places), places, torch.ones(SIZE, SIZE))
    assert result.phasors.shape == (n,)


def test_each_pair_is_listed_once_and_overlaps():
    places = raster()
    pairs = overlap_pairs(places, SIZE)
    assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == len(pairs)
    assert (np.abs(places[pairs[:, 0]] - places[pairs[:, 1]]).max(axis=1) < SIZE + 0.5).all()


@pytest.mark.slow
def test_a_thousand_patches_take_less_than_a_second_of_processor_time():
    places = raster(32, 7.0, 1.5)
    patches = turned(patches_of_object(places, 32), random_phasors(1024))
    start = time.process_time()
    synchronise_phases(patches, places, torch.ones(32, 32))
    assert time.process_time() - start < 1
