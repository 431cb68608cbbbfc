"""Alignment undoes exactly what ptychography cannot know."""

import numpy as np
import pytest
from scipy import ndimage

from ptycho.evaluation.alignment import align, remove_ramp

SHAPE = (150, 140)


def smooth_object(seed=0):
    """Band-limited phase (about ±0.6 rad) and amplitude (0.7 to 1), periodic."""
    rng = np.random.default_rng(seed)
    phase, loss = (ndimage.gaussian_filter(rng.normal(size=SHAPE), 3, mode="wrap") for _ in range(2))
    return (1 - 0.1 * np.abs(loss / loss.std()).clip(0, 3)) * np.exp(0.3j * phase / phase.std())


def disk_region(radius_px=48):
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (y - 74) ** 2 + (x - 70) ** 2 < radius_px**2


def distorted(image, shift_px=(0.0, 0.0), ramp=(0.0, 0.0), factor=1.0):
    """The image moved (Fourier shift), with a phase ramp and a factor."""
    ky, kx = (np.fft.fftfreq(n) for n in image.shape)
    wave = np.exp(-2j * np.pi * (ky[:, None] * shift_px[0] + kx[None, :] * shift_px[1]))
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    return factor * np.fft.ifft2(np.fft.fft2(image) * wave) * np.exp(1j * (ramp[0] * y + ramp[1] * x))


@pytest.mark.parametrize(
    ("shift_px", "ramp", "factor"),
    [
        ((0, 0), (0, 0), 1),
        ((0.3, -0.7), (0.01, -0.02), 2j),
        ((12.4, -19.3), (0.3, -0.9), 0.5 - 0.3j),
        ((-5.25, 19.5), (2.0, -1.1), -3),
        ((1e-3, 0), (1e-4, 1e-4), 1),
    ],
)
def test_a_known_distortion_is_recovered(shift_px, ramp, factor):
    truth = smooth_object()
    image = distorted(truth, shift_px, ramp, factor)
    found = align(image, truth, disk_region())
    assert found.error < 2e-3
    np.testing.assert_allclose(found.shift_px, np.negative(shift_px), atol=2e-3)
    np.testing.assert_allclose(found.ramp_rad_per_px, ramp, atol=1e-4)
    assert abs(found.factor) == pytest.approx(1 / abs(factor), rel=1e-3)
    assert not found.is_twin


def test_the_reported_parameters_make_the_aligned_image():
    image = distorted(smooth_object(), (3.0, -8.0), (0.2, 0.1), 1.5j)
    region = disk_region()
    found = align(image, smooth_object(), region)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rows, columns = np.nonzero(region)
    centre = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    moved = np.roll(image, np.rint(found.shift_px).astype(int), (0, 1))
    wave = np.exp(-1j * (found.ramp_rad_per_px[0] * (y - centre[0]) + found.ramp_rad_per_px[1] * (x - centre[1])))
    rebuilt = found.factor * wave * moved
    assert np.abs(rebuilt - found.image)[region].max() < 1e-2


def test_noise_hides_neither_shift_nor_ramp():
    rng = np.random.default_rng(1)
    image = distorted(smooth_object(), (6.3, 4.6), (-0.4, 0.2), 1)
    image = image + 0.3 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))
    found = align(image, smooth_object(), disk_region())
    np.testing.assert_allclose(found.shift_px, (-6.3, -4.6), atol=0.1)
    np.testing.assert_allclose(found.ramp_rad_per_px, (-0.4, 0.2), atol=1e-3)


def test_what_lies_outside_the_region_has_no_say():
    image = distorted(smooth_object(), (2.0, 1.0), (0.1, 0.0), 1)
    garbage = np.where(disk_region(60), image, 7 * np.exp(1j * np.random.default_rng(2).normal(size=SHAPE)))
    assert align(garbage, smooth_object(), disk_region()).error < 1e-2


def test_a_phase_object_without_amplitude_contrast_is_aligned():
    truth = np.exp(1j * np.angle(smooth_object()))
    found = align(distorted(truth, (9.0, -4.5), (0.5, 0.25), 1j), truth, disk_region())
    np.testing.assert_allclose(found.shift_px, (-9.0, 4.5), atol=1e-2)


def test_aligning_twice_changes_nothing():
    once = align(distorted(smooth_object(), (4.2, 0.4), (0.3, 0.1), 2), smooth_object(), disk_region())
    twice = align(once.image, smooth_object(), disk_region())
    np.testing.assert_allclose(twice.shift_px, 0, atol=1e-3)
    assert twice.error <= once.error * 1.001


def test_a_flat_image_stays_where_it_is_and_gets_the_best_constant():
    truth = smooth_object()
    found = align(np.ones(SHAPE, complex), truth, disk_region())
    assert found.shift_px == (0.0, 0.0)
    assert 0.1 < found.error < 0.5


def test_a_shift_can_be_forbidden():
    found = align(distorted(smooth_object(), (5.0, 0.0)), smooth_object(), disk_region(), max_shift_px=0)
    assert found.shift_px == (0.0, 0.0)
    assert found.error > 0.1


def test_the_twin_is_recognised_only_when_asked_for():
    twin = distorted(smooth_object(), (3.0, -2.0))[::-1, ::-1].conj()
    assert align(twin, smooth_object(), disk_region()).error > 0.1
    found = align(twin, smooth_object(), disk_region(), try_twin=True)
    assert found.is_twin and found.error < 2e-3


def test_an_image_of_its_own_handedness_is_not_called_a_twin():
    assert not align(smooth_object(), smooth_object(), disk_region(), try_twin=True).is_twin


def test_ramp_removal_leaves_a_flat_image_of_the_same_amplitude():
    found = remove_ramp(distorted(0.8 * np.ones(SHAPE), (0, 0), (0.7, -0.03), 1j), disk_region())
    np.testing.assert_allclose(found.image[disk_region()], 0.8, atol=1e-5)
    np.testing.assert_allclose(found.ramp_rad_per_px, (0.7, -0.03), atol=1e-6)


def test_an_empty_region_is_refused():
    with pytest.raises(ValueError, match="region to compare is empty"):
        align(smooth_object(), smooth_object(), np.zeros(SHAPE, bool))


def test_images_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        align(smooth_object()[1:], smooth_object(), disk_region())
