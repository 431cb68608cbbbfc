"""Corrections recover what a simulation put in, on any number of ranks; without them the image is visibly worse."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho.errors import DataError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.constraints import less_variation, round_support
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.probe_start import choose_probe, flown
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.engines.registration import robust_positions
from ptycho_torch.residuals import measure_residuals
from ptycho_torch.simulate import simulate_scan
from ptycho_torch.simulate.probes import defocused
from tests.thread_ranks import run_on_ranks

ROOM_PX = 6


def simulated(**options):
    """100 frames of 32² with known truth, on a grid with room for moves."""
    small = {
        "n_positions": 100, "patch_size": 32, "step_px": 3.5, "jitter_px": 0.8, "photons": 1e6, "start_probe": "true",
        "object": "leaves", "probe_defocus_px2": 25.0,
    }  # fmt: skip
    scan = simulate_scan(SimulateConfig(**(small | options)))
    return replace(scan, object_grid=ObjectGrid.covering(scan.positions_px, 32, margin=2 + ROOM_PX))


def refined(scan, ranks=None, *, epochs=40, **options):
    config = RefineConfig(epochs=epochs, stop_at_plateau=False, **options)
    ranks = ranks or SerialRanks()
    first, last = shard_bounds(scan.n_positions, ranks.rank, ranks.size)
    problem = load_problem(scan, hilbert_order(scan.positions_px)[first:last], ranks)
    engine = Pie(problem, config, ranks, scan.probe)
    for epoch in range(1, epochs + 1):
        result = engine.run_epoch(epoch)
    return engine, result.r_factor


def phase_error_rad(engine, scan):
    truth = scan.truth
    image = engine.image().on(truth.grid).object
    region = scanned_region(truth.positions_px, truth.probe, truth.grid)
    return score(align(image, truth.object, region).image, truth.object, region).phase_rmse_rad


def mean_distance_px(positions, truth):
    difference = positions - truth
    return float(np.hypot(*(difference - difference.mean(0)).T).mean())


@pytest.mark.slow
def test_positions_wrong_by_pixels_are_found():
    scan = simulated(position_error_px=1.2)
    plain, _ = refined(scan)
    engine, _ = refined(scan, position_correction="gradient", position_limit_px=ROOM_PX)
    recorded = mean_distance_px(scan.positions_px, scan.truth.positions_px)
    assert recorded > 1.3
    assert mean_distance_px(engine.image().positions_px, scan.truth.positions_px) < 0.25 * recorded
    assert phase_error_rad(engine, scan) < 0.8 * phase_error_rad(plain, scan)


@pytest.mark.slow
def test_a_wrong_scale_is_found_by_one_affine_map():
    scan = simulated(position_scale_error=0.05, position_rotation_deg=2.0)
    engine, _ = refined(scan, position_correction="gradient", position_model="affine", position_limit_px=ROOM_PX)
    recorded = mean_distance_px(scan.positions_px, scan.truth.positions_px)
    assert mean_distance_px(engine.image().positions_px, scan.truth.positions_px) < 0.55 * recorded


@pytest.mark.slow
def test_intensity_of_each_frame_is_found():
    scan = simulated(intensity_variation=0.2)
    plain, plain_r = refined(scan)
    engine, r_factor = refined(scan, frame_intensity=True)
    found = engine.image().per_frame["intensity"]
    assert np.std(found / scan.truth.intensity) < 0.04
    assert r_factor < 0.75 * plain_r
    assert phase_error_rad(engine, scan) < 0.7 * phase_error_rad(plain, scan)


@pytest.mark.slow
def test_a_constant_background_is_found():
    scan = simulated(background_photons=20.0)
    plain, _ = refined(scan)
    engine, _ = refined(scan, background="constant")
    assert engine.image().background.mean() == pytest.approx(20.0, rel=0.05)
    assert phase_error_rad(engine, scan) < 0.8 * phase_error_rad(plain, scan)


@pytest.mark.slow
def test_a_probe_that_changes_from_frame_to_frame_is_followed():
    scan = simulated(probe_variation=0.1)
    plain, plain_r = refined(scan)
    engine, r_factor = refined(scan, probe_variations=2)
    assert r_factor < 0.5 * plain_r
    assert phase_error_rad(engine, scan) < 0.5 * phase_error_rad(plain, scan)


def test_residuals_count_what_corrections_found():
    scan = simulated(intensity_variation=0.3, background_photons=20.0)
    options = {"frame_intensity": True, "background": "constant", "probe_variations": 1}
    engine, r_factor = refined(scan, epochs=15, **options)
    image = engine.image()
    everyone = np.arange(scan.n_positions)
    found = measure_residuals(scan, everyone, image, image.probe, SerialRanks(), device=torch.device("cpu"))
    assert found.r_factor == pytest.approx(r_factor, rel=0.05)
    bare = ObjectImage(object=image.object, coverage=image.coverage, grid=image.grid, probe=image.probe)
    assert measure_residuals(
        scan, everyone, bare, bare.probe, SerialRanks(), device=torch.device("cpu")
    ).r_factor > 1.2 * found.r_factor  # fmt: skip


ALL_ON = {
    "position_correction": "gradient", "position_start_epoch": 2, "position_model": "drift", "frame_intensity": True,
    "background": "pixel", "probe_variations": 2, "object_tv": 1e-3, "object_amplitude_max": 1.5,
    "probe_support_px": 28.0,
}  # fmt: skip


def test_corrections_do_not_depend_on_the_number_of_ranks():
    scan = simulated(position_error_px=0.5)
    (alone,) = run_on_ranks(1, lambda ranks: refined(scan, ranks, epochs=5, **ALL_ON)[0].image())
    for image in run_on_ranks(3, lambda ranks: refined(scan, ranks, epochs=5, **ALL_ON)[0].image()):
        np.testing.assert_allclose(image.object, alone.object, atol=2e-4)
        np.testing.assert_allclose(image.positions_px, alone.positions_px, atol=1e-3)
        np.testing.assert_allclose(image.per_frame["intensity"], alone.per_frame["intensity"], atol=1e-3)
        np.testing.assert_allclose(image.background, alone.background, rtol=1e-2, atol=1e-3)


def test_corrections_go_on_bit_for_bit():
    scan = simulated(position_error_px=0.5)
    never_stopped, _ = refined(scan, epochs=4, **ALL_ON)
    resumed, _ = refined(scan, epochs=4, **ALL_ON)
    for epoch in (1, 2):
        resumed.run_epoch(epoch)
    resumed.load_state_dict(never_stopped.state_dict(), never_stopped.frame_state_dict())
    assert never_stopped.run_epoch(4).r_factor == resumed.run_epoch(4).r_factor
    one, other = never_stopped.image(), resumed.image()
    assert np.array_equal(one.object, other.object)
    assert np.array_equal(one.positions_px, other.positions_px)


def test_positions_fit_most_pairs_however_wrong_the_others_are():
    rng = np.random.default_rng(0)
    truth = np.stack(np.divmod(np.arange(64), 8), 1) * 10.0
    pairs = np.array([(i, j) for i in range(64) for j in range(i) if np.hypot(*(truth[i] - truth[j])) < 25])
    distances = truth[pairs[:, 0]] - truth[pairs[:, 1]]
    wrong = rng.random(len(pairs)) < 0.3
    distances[wrong] += rng.uniform(-20, 20, (wrong.sum(), 2))
    recorded = truth + rng.normal(0, 5, truth.shape)
    assert mean_distance_px(robust_positions(pairs, distances, recorded), truth) < 0.3


@pytest.mark.slow
def test_positions_wrong_by_many_pixels_are_found_from_the_overlap_of_neighbours():
    scan = simulated(
        patch_size=64, n_positions=64, step_px=7.0, position_error_px=4.0, probe_defocus_px2=90.0, photons=1e7
    )
    scan = replace(scan, object_grid=ObjectGrid.covering(scan.positions_px, 64, margin=20))
    options = {"position_correction": "gradient", "position_limit_px": 16.0}
    creeping, _ = refined(scan, epochs=30, **options)
    found, _ = refined(scan, epochs=30, position_search=True, **options)
    left = [mean_distance_px(engine.image().positions_px, scan.truth.positions_px) for engine in (creeping, found)]
    assert left[1] < 0.5 * left[0]


def test_less_variation_smooths_noise_and_keeps_an_edge():
    rng = np.random.default_rng(0)
    step = torch.zeros(32, 32, dtype=torch.complex64)
    step[:, 16:] = 1
    noisy = step + 0.05 * torch.from_numpy(rng.normal(size=(32, 32)).astype(np.float32))
    smooth = less_variation(noisy, 0.05)
    assert (smooth - step).abs().square().mean() < 0.4 * (noisy - step).abs().square().mean()
    assert (smooth[:, 17] - smooth[:, 14]).real.mean() > 0.85


def test_the_probes_support_is_round_and_soft():
    support = round_support(32, 16.0, torch.device("cpu"))
    assert support[16, 16] > 0.99
    assert support[16, 24] == pytest.approx(0.5)
    assert support[0, 0] < 1e-3


def test_a_probe_flown_back_is_the_probe():
    probe = torch.as_tensor(simulated().probe)
    there = flown(probe, 12.0)
    assert torch.allclose(flown(there, -12.0), probe, atol=1e-3)
    assert torch.allclose(there, defocused(probe, 12.0), atol=1e-2)


def test_a_scan_without_a_probe_says_how_to_get_one():
    scan = replace(simulated(), probe=None)
    with pytest.raises(DataError, match=r'set refine\.probe_start = "guess"'):
        choose_probe(scan, RefineConfig(), SerialRanks(), None)


def likeness(probe, truth):
    return abs(np.vdot(probe, truth)) / np.linalg.norm(probe) / np.linalg.norm(truth)


@pytest.mark.slow
def test_a_probe_is_made_of_the_mean_pattern():
    scan = simulated(object="natural")
    made = choose_probe(scan, RefineConfig(probe_start="guess"), SerialRanks(), None)
    assert likeness(made, scan.truth.probe) > 0.97
    engine, _ = refined(replace(scan, probe=made))
    assert phase_error_rad(engine, scan) < 0.05


@pytest.mark.slow
def test_a_wrong_defocus_is_put_right():
    scan = simulated(object="natural", photons=1e7)
    wrong = flown(torch.as_tensor(scan.truth.probe), -0.2 * 25).numpy()
    found = choose_probe(scan, RefineConfig(probe_start="autofocus"), SerialRanks(), wrong)
    assert likeness(wrong, scan.truth.probe) < 0.99
    assert likeness(found, scan.truth.probe) > 0.998


@pytest.mark.slow
def test_shadows_in_a_magnifying_beam_are_explained_by_the_near_field():
    scan = simulated(
        patch_size=64, n_positions=81, step_px=6.0, probe="gaussian", probe_diameter_px=24.0, energy_eV=12658.0,
        distance_m=1.12, detector_pixel_m=55e-6, focus_distance_m=3.65e-3, probe_defocus_px2=60.0,
    )  # fmt: skip
    assert scan.geometry.fresnel_px2(64)[0] == pytest.approx(11.2, rel=0.01)
    _, near_r = refined(scan, epochs=15)
    _, far_r = refined(replace(scan, geometry=replace(scan.geometry, focus_distance_m=None)), epochs=15)
    assert near_r < 0.05
    assert far_r > 1.5 * near_r
