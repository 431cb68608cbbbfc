"""Laws of the canvas."""

import numpy as np
import pytest
import torch

from ptycho.data.grid import ObjectGrid
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.stitching import Canvas
from tests.thread_ranks import run_on_ranks

WINDOW = 16


def positions(n=40, spread_px=30.0, seed=0):
    return np.random.default_rng(seed).uniform(-spread_px, spread_px, (n, 2))


def gaussian_weight(size=WINDOW):
    r = torch.arange(size) - size // 2
    return torch.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * (size / 5) ** 2))


def random_patches(n, size=WINDOW, seed=0):
    return torch.randn(n, size, size, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def stitched(patches, places, weights, grid=None, **keywords):
    canvas = Canvas(grid or ObjectGrid.covering(places, WINDOW), WINDOW)
    canvas.add(patches, places, weights, **keywords)
    return canvas.image()


def test_flat_patches_return_a_flat_object():
    places = positions()
    value = 0.7 - 0.4j
    image, coverage = stitched(torch.full((40, WINDOW, WINDOW), value), places, gaussian_weight())
    assert (coverage > 0).any() and (coverage == 0).any()
    torch.testing.assert_close(image[coverage > 0], torch.full_like(image[coverage > 0], value), atol=1e-5, rtol=0)


def test_uncovered_pixels_are_marked_and_filled():
    places = np.array([[0.0, 0.0], [40.0, 0.0]])
    image, coverage = stitched(random_patches(2), places, torch.ones(WINDOW, WINDOW))
    assert int((coverage > 0).sum()) == 2 * WINDOW**2
    assert (image[coverage == 0] == 1).all()


def test_an_empty_canvas_is_uncovered_everywhere():
    canvas = Canvas(ObjectGrid(shape=(8, 9)), WINDOW)
    canvas.add(random_patches(0), np.empty((0, 2)), gaussian_weight())
    image, coverage = canvas.image(fill=0)
    assert image.shape == (8, 9) and not image.any() and not coverage.any()


def test_patches_cut_from_an_object_at_whole_pixels_return_it():
    places = np.round(positions())
    grid = ObjectGrid.covering(places, WINDOW)
    truth = torch.randn(grid.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    windows = Windows.at(torch.from_numpy(grid.corners_px(places, WINDOW)), WINDOW, grid.shape)
    image, coverage = stitched(extract_patches(truth, windows), places, gaussian_weight(), grid)
    assert (image - truth)[coverage > 0].abs().max() < 1e-4


def test_patches_smaller_than_the_window_keep_the_window_centre():
    grid = ObjectGrid(shape=(40, 40), origin_px=(-20.0, -20.0))
    canvas = Canvas(grid, WINDOW)
    canvas.add(torch.ones(1, 5, 5, dtype=torch.complex64), np.array([[3.0, -2.0]]), torch.ones(5, 5))
    lit = torch.nonzero(canvas.image()[1]).float()
    assert lit.mean(0).tolist() == [23.0, 18.0]


def test_a_shifted_scan_gives_the_same_image_on_a_shifted_grid():
    places = positions()
    patches = random_patches(40)
    image, _ = stitched(patches, places, gaussian_weight())
    shifted, _ = stitched(patches, places + np.array([100.0, -7.0]), gaussian_weight())
    torch.testing.assert_close(image, shifted, atol=1e-5, rtol=1e-5)


def test_stitching_is_linear_in_the_patches():
    places, a, b = positions(), random_patches(40, seed=1), random_patches(40, seed=2)
    weights = gaussian_weight()
    both = stitched(2 * a - 3j * b, places, weights)[0]
    apart = 2 * stitched(a, places, weights)[0] - 3j * stitched(b, places, weights)[0]
    lit = stitched(a, places, weights)[1] > 0
    torch.testing.assert_close(both[lit], apart[lit], atol=2e-5, rtol=1e-4)


def test_phasors_multiply_their_patches():
    places, patches = positions(), random_patches(40)
    phasors = torch.polar(torch.ones(40), torch.linspace(0, 6, 40))
    with_phasors = stitched(patches, places, gaussian_weight(), phasors=phasors)[0]
    torch.testing.assert_close(with_phasors, stitched(patches * phasors[:, None, None], places, gaussian_weight())[0])


def test_weights_of_each_patch_weight_that_patch():
    places = np.zeros((2, 2))
    patches = torch.stack([torch.full((WINDOW, WINDOW), 1 + 0j), torch.full((WINDOW, WINDOW), 4 + 0j)])
    weights = torch.stack([torch.full((WINDOW, WINDOW), 2.0), torch.ones(WINDOW, WINDOW)])
    image, coverage = stitched(patches, places, weights)
    assert image[coverage > 0].real.unique().tolist() == [2.0]
    assert coverage.max() == 3


def test_batches_and_their_order_do_not_matter():
    places, patches = positions(), random_patches(40)
    grid = ObjectGrid.covering(places, WINDOW)
    whole = stitched(patches, places, gaussian_weight(), grid)
    canvas = Canvas(grid, WINDOW)
    for part in np.array_split(np.random.default_rng(1).permutation(40), 13):
        canvas.add(patches[part], places[part], gaussian_weight())
    for one, other in zip(whole, canvas.image(), strict=True):
        assert float((one - other).abs().norm() / one.abs().norm()) < 1e-6


@pytest.mark.parametrize("everywhere", [True, False])
def test_one_rank_and_four_ranks_give_the_same_canvas(everywhere):
    places, patches = positions(), random_patches(40)
    grid = ObjectGrid.covering(places, WINDOW)
    alone = stitched(patches, places, gaussian_weight(), grid)

    def work(ranks):
        canvas = Canvas(grid, WINDOW)
        mine = np.array_split(np.arange(40), 4)[ranks.rank]
        canvas.add(patches[mine], places[mine], gaussian_weight())
        canvas.merge(ranks, everywhere=everywhere)
        return canvas.image()

    results = run_on_ranks(4, work)
    for image, coverage in results if everywhere else results[:1]:
        assert float((image - alone[0]).abs().norm() / alone[0].abs().norm()) < 1e-6
        assert float((coverage - alone[1]).abs().norm() / alone[1].norm()) < 1e-6


def test_a_rank_without_patches_merges_too():
    def work(ranks):
        canvas = Canvas(ObjectGrid(shape=(20, 20)), WINDOW)
        if ranks.rank:
            canvas.add(random_patches(1), np.array([[10.0, 10.0]]), torch.ones(WINDOW, WINDOW))
        canvas.merge(ranks)
        return int((canvas.image()[1] > 0).sum())

    assert run_on_ranks(2, work) == [WINDOW**2, WINDOW**2]


def test_a_canvas_holds_memory_for_the_touched_rectangle_only():
    grid = ObjectGrid(shape=(1000, 1000))
    canvas = Canvas(grid, WINDOW)
    canvas.add(random_patches(1), np.array([[500.0, 500.0]]), gaussian_weight())
    assert canvas.n_bytes == 12 * WINDOW**2


def test_a_patch_that_leaves_the_grid_is_refused():
    canvas = Canvas(ObjectGrid(shape=(20, 20)), WINDOW)
    with pytest.raises(ValueError, match="outside the grid"):
        canvas.add(random_patches(1), np.array([[10.0, 13.5]]), gaussian_weight())


@pytest.mark.parametrize(
    ("patches", "weights", "message"),
    [
        (random_patches(1, WINDOW + 2), gaussian_weight(WINDOW + 2), "at most 16"),
        (random_patches(2), gaussian_weight(), "2 patches but positions"),
        (random_patches(1), gaussian_weight(8), "do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(patches, weights, message):
    canvas = Canvas(ObjectGrid(shape=(60, 60)), WINDOW)
    with pytest.raises(ValueError, match=message):
        canvas.add(patches, np.array([[30.0, 30.0]]), weights)
