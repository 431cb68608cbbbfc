"""Figures show what they are given, whatever the values."""

import io

import numpy as np
import pytest
from PIL import Image

from ptycho.data.scan import ArrayFrames, Scan
from ptycho.evaluation.frc import ring_correlation
from ptycho.report import figures
from ptycho.report.captions import CAPTIONS

SHAPE = (60, 70)
PIXEL = (20e-9, 20e-9)


def sample():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return ((0.9 + 0.1 * np.sin(x / 5)) * np.exp(0.4j * np.cos(y / 6 + x / 9))).astype(np.complex64)


def region():
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (y - 30) ** 2 + (x - 36) ** 2 < 25**2


def probe(n_modes=1):
    r = np.arange(32) - 16
    wave = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / 40 * (1 - 1j))
    return np.stack([wave * (r[None, :] / 4.0) ** k for k in range(n_modes)]).astype(np.complex64)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def drawn():
    noise = np.random.default_rng(0).normal(size=(2, *SHAPE)) * 0.1
    positions = np.random.default_rng(1).uniform(0, 30, (40, 2))
    curve = ring_correlation(sample() + noise[0], sample() + noise[1], region(), pixel_size_m=20e-9)
    return {
        "object_phase": figures.object_phase(sample(), region(), PIXEL),
        "object_amplitude": figures.object_amplitude(sample(), region()),
        "slice_phases": figures.slice_phases(np.stack([sample(), sample().conj()]), region(), PIXEL),
        "probe_modes": figures.probe_modes(probe(3), PIXEL),
        "diffraction": figures.diffraction(np.abs(sample()) * 9, noise[0], region()),
        "frame_residuals": figures.frame_residuals(positions, np.linspace(0.1, 0.3, 40), PIXEL),
        "patch_confidence": figures.patch_confidence(positions, np.linspace(0.2, 1, 40), PIXEL),
        "position_shifts": figures.position_shifts(positions, np.sin(positions), PIXEL),
        "coverage": figures.coverage(region() * 3.0, region(), PIXEL),
        "history": figures.history({"training": [3, 2, 1.5]}, {"rpie": [0.3, 0.2]}),
        "fourier_ring_correlation": figures.fourier_ring_correlation(curve),
        "truth_comparison": figures.truth_comparison(sample() * np.exp(0.01j), sample(), region(), PIXEL),
    }


def test_every_figure_with_a_caption_is_drawn_and_is_not_blank():
    made = drawn()
    assert set(made) == set(CAPTIONS)
    for name, png in made.items():
        picture = pixels(png)
        assert min(picture.shape[:2]) > 300, name
        assert picture.std() > 10, name


def test_drawing_twice_gives_the_same_file():
    assert figures.object_phase(sample(), region(), PIXEL) == figures.object_phase(sample(), region(), PIXEL)


def test_a_phase_ramp_does_not_show():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    tilted = sample() * np.exp(1j * (0.5 * y - 0.3 * x + 2))
    difference = pixels(figures.object_phase(tilted, region())) - pixels(figures.object_phase(sample(), region()))
    assert np.abs(difference).mean() < 0.5


def test_what_lies_outside_the_region_does_not_show():
    garbage = np.where(region(), sample(), 40 * sample().conj())
    assert figures.object_amplitude(garbage, region()) == figures.object_amplitude(sample(), region())


def test_a_phase_that_runs_round_the_circle_is_drawn():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    vortex = np.exp(1j * np.arctan2(y - 30.3, x - 36.2))
    assert pixels(figures.object_phase(vortex, region())).any()


@pytest.mark.parametrize("constant", [1 + 0j, 0j])
def test_constant_objects_are_drawn(constant):
    flat = np.full(SHAPE, constant, np.complex64)
    everywhere = np.ones(SHAPE, bool)
    assert figures.object_amplitude(flat, everywhere)
    assert figures.object_phase(flat, everywhere)
    assert figures.truth_comparison(flat, np.ones(SHAPE, np.complex64), everywhere)


def test_frames_without_light_and_residuals_of_zero_are_drawn():
    assert figures.diffraction(np.zeros((16, 16)), np.zeros((16, 16)))
    assert figures.coverage(np.zeros(SHAPE), np.zeros(SHAPE, bool))
    assert figures.frame_residuals(np.zeros((1, 2)), np.array([0.2]))


@pytest.mark.parametrize("n_modes", [1, 2, 9])
def test_any_number_of_probe_modes_is_drawn(n_modes):
    assert figures.probe_modes(probe(n_modes))


def test_a_history_of_one_epoch_and_of_no_loss_is_drawn():
    assert figures.history({}, {"rpie": [0.2]})
    assert figures.history({"training": [1e3, 1.0], "validation": []}, {})


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="no loss and no R-factor"):
        figures.history({"training": []}, {})


@pytest.mark.parametrize("with_probe", [True, False])
def test_a_scan_is_drawn_before_any_work(tmp_path, with_probe):
    counts = np.random.default_rng(0).poisson(3, (5, 32, 32))
    scan = Scan(
        name="small",
        path=None,
        frames=ArrayFrames(counts),
        positions_px=np.random.default_rng(1).uniform(0, 9, (5, 2)),
        probe=probe() if with_probe else None,
    )
    path = tmp_path / "scan.png"
    figures.draw_scan(scan, path)
    assert pixels(path.read_bytes()).any()
    assert [p.name for p in tmp_path.iterdir()] == ["scan.png"]


def test_drawing_leaves_matplotlib_settings_as_they_were():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.object_amplitude(sample(), region())
    assert dict(mpl.rcParams) == before


def test_a_thumbnail_is_a_small_square_of_the_scanned_region_alone():
    png = figures.thumbnail(sample(), region(), width_px=88)
    assert pixels(png).shape == (88, 88, 3)
    assert len(png) < 20_000
    outside = np.array([0xE9, 0xED, 0xF1])
    assert (pixels(png)[0, 0] == outside).all(), "the corner lies outside the round region"
    assert (pixels(png)[44, 44] != outside).any()
