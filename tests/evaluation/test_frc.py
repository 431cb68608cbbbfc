"""Fourier ring correlation tells agreement from chance."""

import numpy as np
import pytest
from scipy import ndimage

from ptycho.evaluation.frc import RingCorrelation, half_bit_threshold, ring_correlation, soft_edge

SHAPE = (160, 150)


def region(radius_px=70):
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (y - 80) ** 2 + (x - 75) ** 2 < radius_px**2


def noise(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)


def test_an_image_agrees_with_itself_up_to_nyquist():
    curve = ring_correlation(noise(0), noise(0), region())
    np.testing.assert_allclose(curve.correlation, 1, atol=1e-9)
    assert curve.resolution_px() == 1.0
    assert curve.frequency[-1] <= 0.5 < curve.frequency[-1] + curve.frequency[1]


def test_independent_noise_does_not_correlate_in_spite_of_the_common_mask():
    curve = ring_correlation(1 + noise(0), 1 + noise(1), region())
    assert np.abs(curve.correlation[10:]).max() < 0.2
    assert np.mean(curve.correlation > curve.half_bit) == 0
    assert curve.resolution_px() is None


@pytest.mark.parametrize("blur_px", [1.5, 3.0])
def test_resolution_is_where_signal_drowns_in_noise(blur_px):
    signal = ndimage.gaussian_filter(noise(0).real, blur_px) + 0j
    level = 0.3 * signal.std()
    curve = ring_correlation(signal + level * noise(1), signal + level * noise(2), region())
    frequency = np.fft.fftfreq(512)
    # A Gaussian blur passes exp(−2π²σ²f²): signal and noise power meet where that, squared, falls to their ratio.
    power_ratio = 2 * level**2  # complex noise against real white noise of unit power
    meet = np.sqrt(-np.log(power_ratio) / (4 * np.pi**2 * blur_px**2))
    assert abs(frequency).max() > meet
    assert curve.resolution_px("1/7") == pytest.approx(0.5 / meet, rel=0.25)


def test_more_noise_never_gives_finer_resolution():
    signal = ndimage.gaussian_filter(noise(0).real, 2) + 0j
    found = [
        ring_correlation(signal + s * noise(1), signal + s * noise(2), region()).resolution_px()
        for s in (0.001, 0.01, 0.05)
    ]
    assert found == sorted(found)


def test_a_factor_common_to_an_image_changes_nothing():
    one = ring_correlation(noise(0) + noise(1), noise(0), region())
    other = ring_correlation(7 * (noise(0) + noise(1)), noise(0), region())
    np.testing.assert_allclose(one.correlation, other.correlation, atol=1e-12)


def test_a_phase_turn_between_the_images_lowers_the_curve():
    assert ring_correlation(noise(0), 1j * noise(0), region()).correlation[5] == pytest.approx(0, abs=1e-9)


def test_the_half_bit_threshold_has_its_published_limits():
    assert half_bit_threshold(np.array([1e12]))[0] == pytest.approx(0.2071 / 1.2071, rel=1e-4)
    assert half_bit_threshold(np.array([1.0]))[0] == pytest.approx(1.0, abs=1e-3)


def test_resolution_in_metres_is_pixels_times_pixel_size():
    curve = RingCorrelation(
        frequency=np.array([0, 0.1, 0.2, 0.3]),
        correlation=np.array([1, 1, 0.5, 0.0]),
        half_bit=np.full(4, 0.25),
        pixel_size_m=10e-9,
    )
    assert curve.resolution_px() == pytest.approx(0.5 / 0.25)
    assert curve.resolution_m() == pytest.approx(20e-9)
    assert curve.resolution_px("1/7") == pytest.approx(0.5 / (0.2 + 0.1 * (0.5 - 1 / 7) / 0.5))


def test_the_soft_edge_lies_inside_the_region():
    mask = soft_edge(region(), 8)
    assert (mask[~region()] == 0).all()
    assert mask[80, 75] == 1
    assert 0 < mask[80, 75 + 66] < 1


def test_a_region_without_room_for_an_edge_is_refused():
    with pytest.raises(ValueError, match="too narrow"):
        ring_correlation(noise(0), noise(0), np.zeros(SHAPE, bool))
