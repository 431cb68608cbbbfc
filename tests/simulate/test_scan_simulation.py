import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.simulate import SimulateConfig
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.likelihood import poisson_deviance
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import to_fft_order
from ptycho_torch.simulate import scan as scan_module
from ptycho_torch.simulate.scan import simulate_scan

SMALL = SimulateConfig(n_positions=64, patch_size=32, step_px=5, jitter_px=1, probe_defocus_px2=30, feature_px=5)


def expected(scan, probe, positions_px):
    """Expected counts (position, y, x) of a scan's true object under some probe at some positions, FFT order."""
    grid = scan.truth.grid
    windows = Windows.at(torch.from_numpy(grid.corners_px(positions_px, scan.patch_size)), scan.patch_size, grid.shape)
    return expected_counts(torch.from_numpy(probe), extract_patches(torch.from_numpy(scan.truth.object), windows))


def excess_deviance(scan, probe, positions_px):
    """Mean Poisson deviance of a scan's counts over that of counts that were drawn afresh from the truth."""
    truth = expected(scan, scan.truth.probe, scan.truth.positions_px)
    floor = poisson_deviance(torch.poisson(truth, generator=torch.Generator().manual_seed(99)), truth).mean()
    counts = to_fft_order(torch.from_numpy(scan.frames.counts.astype(np.float32)))
    return float(poisson_deviance(counts, expected(scan, probe, positions_px)).mean() / floor)


def test_the_truth_explains_its_counts_to_the_poisson_floor():
    scan = simulate_scan(SMALL)
    assert excess_deviance(scan, scan.truth.probe, scan.truth.positions_px) == pytest.approx(1, abs=0.02)
    assert excess_deviance(scan, scan.probe, scan.truth.positions_px) > 3


def test_the_defaults_are_a_beamline_scan_of_a_thousand_frames():
    config = SimulateConfig()
    scan = simulate_scan(config)
    assert scan.frames.shape == (1024, 64, 64)
    assert scan.frames.dtype == np.uint16
    assert scan.truth.grid.holds(scan.positions_px, 64)
    assert scan.grid.holds(scan.positions_px, 64)
    assert np.abs(scan.truth.object).max() <= 1 + 1e-6
    light = np.abs(scan.truth.probe[0]) ** 2
    assert light.sum() == pytest.approx(1e6, rel=1e-4)
    y, x = np.mgrid[-32:32, -32:32]
    assert light[np.hypot(y, x) < 12].sum() / light.sum() == pytest.approx(0.806, abs=0.01)
    assert scan.geometry.object_pixel(64)[0] == pytest.approx(5.87e-8, rel=1e-3)


def test_the_mean_of_the_counts_is_what_the_object_lets_through():
    scan = simulate_scan(SMALL)
    through = float(expected(scan, scan.truth.probe, scan.truth.positions_px).sum((1, 2)).mean())
    assert scan.frames.counts.sum() / 64 == pytest.approx(through, rel=1e-3)
    assert 0.64e6 < through < 1e6


def test_doubling_photons_doubles_the_mean_counts_and_leaves_object_and_positions():
    one, two = simulate_scan(SMALL), simulate_scan(replace(SMALL, photons=2e6))
    assert two.frames.counts.sum() / one.frames.counts.sum() == pytest.approx(2, rel=1e-3)
    assert np.array_equal(one.truth.object, two.truth.object)
    assert np.array_equal(one.positions_px, two.positions_px)
    assert two.truth.probe == pytest.approx(one.truth.probe * np.sqrt(2), rel=1e-4)


def test_the_same_seed_gives_the_same_scan_and_two_seeds_give_two_scans():
    first, again, other = simulate_scan(SMALL), simulate_scan(SMALL), simulate_scan(replace(SMALL, seed=1))
    assert np.array_equal(first.frames.counts, again.frames.counts)
    assert np.array_equal(first.positions_px, again.positions_px)
    assert not np.allclose(first.positions_px, other.positions_px, atol=0.1)
    assert first.truth.object[:100, :100].mean() != other.truth.object[:100, :100].mean()


def test_the_size_of_the_chunks_changes_nothing_but_memory(monkeypatch):
    whole = simulate_scan(SMALL)
    monkeypatch.setattr(scan_module, "CHUNK_PIXELS", 32 * 32 * 7)
    assert np.array_equal(simulate_scan(SMALL).frames.counts, whole.frames.counts)


def test_counts_that_do_not_fit_sixteen_bits_are_kept_whole(monkeypatch):
    monkeypatch.setattr(scan_module, "CHUNK_PIXELS", 32 * 32 * 7)
    scan = simulate_scan(replace(SMALL, photons=3e7))
    assert scan.frames.dtype == np.uint32
    assert scan.frames.counts.max() > 65535
    assert scan.frames.counts.sum() / 64 > 0.6 * 3e7


def test_the_starting_probe_is_wrong_true_or_missing_as_asked():
    wrong, right, none = (simulate_scan(replace(SMALL, start_probe=kind)) for kind in ("wrong", "true", "none"))
    assert none.probe is None
    assert np.array_equal(right.probe, right.truth.probe)
    distance = np.linalg.norm(wrong.probe - wrong.truth.probe) / np.linalg.norm(wrong.truth.probe)
    assert 0.1 < distance < 1
    assert np.linalg.norm(wrong.probe) == pytest.approx(np.linalg.norm(wrong.truth.probe), rel=1e-4)


def test_position_errors_move_the_recorded_positions_only():
    scan = simulate_scan(replace(SMALL, position_error_px=0.8, start_probe="true"))
    error = scan.positions_px - scan.truth.positions_px
    assert error.std() == pytest.approx(0.8, rel=0.2)
    assert excess_deviance(scan, scan.truth.probe, scan.truth.positions_px) == pytest.approx(1, abs=0.02)
    assert excess_deviance(scan, scan.truth.probe, scan.positions_px) > 3
    assert scan.truth.grid.holds(scan.positions_px, scan.patch_size)


def test_background_adds_its_counts_to_every_pixel():
    clean, foggy = simulate_scan(SMALL), simulate_scan(replace(SMALL, background_photons=10.0))
    extra = foggy.frames.counts.astype(float).mean(0) - clean.frames.counts.astype(float).mean(0)
    assert extra.mean() == pytest.approx(10, abs=0.3)
    assert foggy.frames.counts[:, 0, 0].mean() > 7


def test_incoherent_modes_share_the_photons_and_explain_the_counts():
    scan = simulate_scan(replace(SMALL, mode_fractions=(0.7, 0.2, 0.1), probe="gaussian", probe_diameter_px=12))
    powers = (np.abs(scan.truth.probe) ** 2).sum((1, 2))
    assert powers == pytest.approx([7e5, 2e5, 1e5], rel=1e-3)
    assert excess_deviance(scan, scan.truth.probe, scan.truth.positions_px) == pytest.approx(1, abs=0.02)


def test_a_measured_probe_lights_the_object_and_starts_out_of_focus(tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-16:16, -16:16]
    modes = np.exp(-(y**2 + x**2) / 50) * np.exp(1j * rng.normal(size=(2, 1, 1)) * x)
    np.save(tmp_path / "probe.npy", modes.astype(np.complex64))
    config = replace(SMALL, probe="measured", probe_file=tmp_path / "probe.npy", probe_defocus_px2=20, defocus_error=-1)
    scan = simulate_scan(config)
    assert scan.truth.probe.shape == (2, 32, 32)
    scale = np.sqrt(1e6 / (np.abs(modes) ** 2).sum())
    # A defocus error of -100 % means that the reconstruction starts from the file's own probe.
    assert np.abs(scan.probe - scale * modes).max() < 1e-3 * scale
    assert np.abs(scan.truth.probe - scan.probe).max() > 0.1 * scale


def test_the_provenance_says_how_to_make_the_scan_again():
    scan = simulate_scan(replace(SMALL, seed=7))
    told = json.loads(json.dumps(scan.provenance))["simulated"]
    told["mode_fractions"] = tuple(told["mode_fractions"])
    again = simulate_scan(SimulateConfig(**told))
    assert np.array_equal(again.frames.counts, scan.frames.counts)


def test_one_frame_is_a_scan():
    assert simulate_scan(replace(SMALL, n_positions=1)).frames.shape == (1, 32, 32)
