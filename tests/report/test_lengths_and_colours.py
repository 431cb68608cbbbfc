"""Lengths are round and colours mean what the key says."""

import numpy as np
import pytest

from ptycho.report.colour import colour_limits, complex_colours, phase_colours
from ptycho.report.lengths import in_unit, length_words, round_length


@pytest.mark.parametrize(
    ("length_m", "words"),
    [(8.19e-8, "81.9 nm"), (1e-6, "1 µm"), (5e-7, "500 nm"), (2e-3, "2 mm"), (1.5e-10, "150 pm"), (9.999e-7, "1 µm")],
)
def test_lengths_are_said_in_a_fitting_unit(length_m, words):
    assert length_words(length_m) == words


@pytest.mark.parametrize(("at_most_px", "length_px"), [(99, 50), (50, 50), (19.9, 10), (3, 2), (0.7, 0.5)])
def test_a_scale_bar_without_pixel_size_has_a_round_number_of_pixels(at_most_px, length_px):
    assert round_length(at_most_px, None) == (length_px, f"{length_px:g} px")


def test_a_scale_bar_in_metres_uses_the_width_of_a_pixel():
    length_px, words = round_length(60, (7e-9, 10e-9))
    assert length_px == pytest.approx(50) and words == "500 nm"


def test_positions_are_in_micrometres_when_the_pixel_is_known():
    y, x, unit = in_unit(np.array([[100.0, 50.0]]), (10e-9, 20e-9))
    assert (y[0], x[0], unit) == (pytest.approx(1.0), pytest.approx(1.0), "µm")
    assert in_unit(np.array([[100.0, 50.0]]), None)[2] == "px"


def luminance(rgb):
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_every_phase_is_equally_bright():
    bright = luminance(phase_colours(np.linspace(-np.pi, np.pi, 200)))
    assert np.ptp(bright) / bright.mean() < 0.15


def test_different_phases_have_different_colours():
    colours = phase_colours(np.linspace(-np.pi, np.pi, 13)[:-1])
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 9 * np.eye(12)
    assert apart.min() > 0.1


def test_brightness_grows_with_amplitude():
    wave = np.linspace(0, 1, 50)[None, :] * np.exp(0.7j)
    bright = luminance(complex_colours(wave))[0]
    assert (np.diff(bright) >= 0).all()
    assert bright[0] == pytest.approx(0, abs=1e-9)


def test_colours_do_not_depend_on_the_power_of_the_wave():
    wave = np.random.default_rng(0).normal(size=(5, 5)) + 1j
    np.testing.assert_allclose(complex_colours(wave), complex_colours(1e6 * wave), atol=1e-9)


def test_colour_limits_of_a_constant_lie_about_it():
    low, high = colour_limits(np.full(9, 0.7))
    assert low < 0.7 < high
