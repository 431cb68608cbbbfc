import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho.data.geometry import Geometry, energy_from_wavelength, metres_to_px, px_to_metres
from ptycho.errors import DataError


def test_a_photon_of_12398_eV_has_a_wavelength_of_one_angstrom():  # noqa: N802
    assert Geometry(energy_eV=12398.419843).wavelength_m == pytest.approx(1e-10, rel=1e-12)


def test_object_pixel_is_wavelength_times_distance_over_detector_width():
    geometry = Geometry(energy_eV=8000, distance_m=0.75, detector_pixel_m=(75e-6, 150e-6))
    height, width = geometry.object_pixel(32)
    assert height == pytest.approx(1.2398419843e-6 / 8000 * 0.75 / (32 * 75e-6))
    assert height == pytest.approx(2 * width)


def test_a_recorded_object_pixel_is_preferred():
    geometry = Geometry(energy_eV=8000, distance_m=1, detector_pixel_m=(75e-6, 75e-6), object_pixel_m=(1e-8, 1e-8))
    assert geometry.object_pixel(32) == (1e-8, 1e-8)


def test_nothing_known_gives_no_pixel():
    assert Geometry(energy_eV=8000).object_pixel(32) is None
    assert Geometry().wavelength_m is None


@given(st.floats(1e-10, 1e-6), st.floats(1e-10, 1e-6), st.integers(0, 99))
def test_metres_and_pixels_are_inverse(height, width, seed):
    geometry = Geometry(object_pixel_m=(height, width))
    positions = np.random.default_rng(seed).normal(size=(5, 2)) * 100
    assert np.allclose(metres_to_px(px_to_metres(positions, geometry, 8), geometry, 8), positions, rtol=1e-12)


def test_rows_use_the_pixel_height():
    geometry = Geometry(object_pixel_m=(2.0, 5.0))
    assert px_to_metres(np.array([[1.0, 1.0]]), geometry, 8).tolist() == [[2.0, 5.0]]


def test_metres_without_a_pixel_size_name_what_is_missing():
    with pytest.raises(DataError, match="detector_pixel_m not recorded"):
        metres_to_px(np.zeros((1, 2)), Geometry(energy_eV=8000, distance_m=1), 8)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["energy_eV", "distance_m"])
def test_impossible_values_are_refused(name, value):
    with pytest.raises(DataError, match=name):
        Geometry(**{name: value})


def test_a_pixel_has_two_sides():
    with pytest.raises(DataError, match="height, width"):
        Geometry(detector_pixel_m=(1e-6, 1e-6, 1e-6))


def test_cropping_the_detector_makes_a_recorded_object_pixel_larger_just_as_a_computed_one():
    computed = Geometry(energy_eV=8000, distance_m=1, detector_pixel_m=(75e-6, 75e-6))
    recorded = Geometry(object_pixel_m=computed.object_pixel(64))
    assert recorded.cropped(64, 16).object_pixel(16) == pytest.approx(computed.cropped(64, 16).object_pixel(16))


def test_energy_and_wavelength_are_inverse():
    assert Geometry(energy_eV=energy_from_wavelength(1.408e-10)).wavelength_m == pytest.approx(1.408e-10)
