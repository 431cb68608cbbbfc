"""Metrics use the truth's own range and radians, and count the well-lit region only."""

import numpy as np
import pytest

from ptycho.data.grid import ObjectGrid
from ptycho.evaluation.metrics import (
    complex_error,
    illumination,
    phase_difference,
    r_factor,
    scanned_region,
    score,
    ssim,
    well_lit,
)

SHAPE = (60, 64)
EVERYWHERE = np.ones(SHAPE, bool)


def sample():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (0.9 + 0.1 * np.sin(x / 5)) * np.exp(1j * 0.5 * np.cos(y / 4))


def gaussian_probe(n=16, power=1.0):
    r = np.arange(n) - n // 2
    probe = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * 2.5**2)).astype(np.complex64)
    return (probe * np.sqrt(power / (np.abs(probe) ** 2).sum()))[None]


def test_the_truth_scores_perfectly():
    scores = score(sample(), sample(), EVERYWHERE)
    assert scores.phase_rmse_rad < 1e-12
    assert scores.amplitude_psnr_db == float("inf")
    assert scores.amplitude_ssim == pytest.approx(1)
    assert scores.phase_ssim == pytest.approx(1)
    assert scores.complex_error == 0


def test_a_known_phase_error_is_reported_in_radians():
    error = 0.03 * np.where(np.arange(SHAPE[1]) % 2, 1, -1)
    assert score(sample() * np.exp(1j * error), sample(), EVERYWHERE).phase_rmse_rad == pytest.approx(0.03, rel=1e-6)


def test_psnr_refers_to_the_range_of_the_truth():
    scores = score(sample() * (1 + 0.01 / np.abs(sample())), sample(), EVERYWHERE)
    assert scores.amplitude_range == pytest.approx(0.2, abs=2e-3)
    assert scores.contrast_psnr_db == pytest.approx(20 * np.log10(scores.amplitude_range / 0.01), abs=1e-6)


def test_psnr_does_not_change_when_amplitudes_are_in_other_units():
    image = sample() + 0.01
    one, other = score(image, sample(), EVERYWHERE), score(9 * image, 9 * sample(), EVERYWHERE)
    assert other.amplitude_psnr_db == pytest.approx(one.amplitude_psnr_db, abs=1e-9)
    assert other.amplitude_ssim == pytest.approx(one.amplitude_ssim, abs=1e-9)


def test_phase_wraps_do_not_count_as_errors():
    truth = np.exp(1j * np.linspace(-9, 9, SHAPE[1])) * np.ones(SHAPE)
    assert score(truth * np.exp(0.01j), truth, EVERYWHERE).phase_rmse_rad == pytest.approx(0.01, rel=1e-6)
    assert np.abs(phase_difference(truth * np.exp(0.01j), truth) - 0.01).max() < 1e-9


def test_errors_outside_the_region_do_not_count():
    region = EVERYWHERE.copy()
    region[:10] = False
    image = sample()
    image[:10] *= -5
    assert score(image, sample(), region) == score(sample(), sample(), region)


def test_ssim_of_a_constant_against_structure_is_near_zero():
    truth = np.random.default_rng(0).normal(size=SHAPE)
    assert ssim(np.zeros(SHAPE), truth, EVERYWHERE, float(np.ptp(truth))) < 0.1


def test_ssim_of_inverted_structure_is_negative():
    truth = np.random.default_rng(0).normal(size=SHAPE)
    assert ssim(-truth, truth, EVERYWHERE, float(np.ptp(truth))) < -0.5


def test_ssim_does_not_depend_on_the_origin_of_the_phase():
    a, b = np.random.default_rng(0).normal(size=(2, *SHAPE))
    assert ssim(a + 2.5, b + 2.5, EVERYWHERE, 1.0) == pytest.approx(ssim(a, b, EVERYWHERE, 1.0), abs=1e-9)


def test_complex_error_of_zero_is_one():
    assert complex_error(np.zeros(SHAPE), sample(), EVERYWHERE) == 1


def test_r_factor_of_a_tenth_less_amplitude_is_a_tenth():
    assert r_factor(10.0, 100.0) == 0.1
    with pytest.raises(ValueError, match="frames without light"):
        r_factor(0.0, 0.0)


def test_illumination_holds_all_the_light():
    positions = np.array([[3.2, 5.1], [10.7, 9.0], [10.7, 9.0]])
    grid = ObjectGrid.covering(positions, 16)
    light = illumination(positions, gaussian_probe(power=7.0), grid)
    assert light.sum() == pytest.approx(3 * 7.0, rel=1e-6)
    assert (light >= 0).all()


def test_illumination_of_one_position_is_the_probe_in_its_place():
    grid = ObjectGrid(shape=(30, 40), origin_px=(-5.0, 2.0))
    light = illumination(np.array([[8.0, 20.0]]), gaussian_probe(), grid)
    assert np.unravel_index(light.argmax(), light.shape) == (13, 18)
    np.testing.assert_allclose(light[5:21, 10:26], np.abs(gaussian_probe()[0]) ** 2, atol=1e-9)


def test_probe_modes_add_their_light():
    grid = ObjectGrid(shape=(30, 30))
    positions = np.array([[12.0, 12.0]])
    two = np.concatenate([gaussian_probe(), 2 * gaussian_probe()])
    np.testing.assert_allclose(
        illumination(positions, two, grid), 5 * illumination(positions, gaussian_probe(), grid), atol=1e-7
    )


def test_the_scanned_region_surrounds_the_positions_and_leaves_the_corners():
    axis = np.arange(10) * 3.0
    positions = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    grid = ObjectGrid.covering(positions, 16)
    region = scanned_region(positions, gaussian_probe(), grid)
    rows, columns = (positions - np.asarray(grid.origin_px)).astype(int).T
    assert region[rows, columns].all()
    assert not region[0].any() and not region[:, -1].any()


def test_the_region_does_not_depend_on_the_dose():
    positions = np.random.default_rng(0).uniform(0, 30, (50, 2))
    grid = ObjectGrid.covering(positions, 16)
    weak = scanned_region(positions, gaussian_probe(power=1.0), grid)
    strong = scanned_region(positions, gaussian_probe(power=1e6), grid)
    assert np.array_equal(weak, strong)


def test_nothing_is_well_lit_without_light():
    assert not well_lit(np.zeros(SHAPE)).any()


def test_windows_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="leave the grid"):
        illumination(np.array([[0.0, 0.0]]), gaussian_probe(), ObjectGrid(shape=(30, 30)))
