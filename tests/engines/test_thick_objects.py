"""Thick objects: slices with free flight between them are recovered, on any number of ranks; a thin object is worse."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import read_image, write_image
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho.errors import DataError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.choice import choose_engine
from ptycho_torch.engines.estimate import Estimate
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.engines.sums import Sums
from ptycho_torch.physics.forward import traverse
from ptycho_torch.physics.patches import Windows
from ptycho_torch.physics.propagate import flight, slice_flight
from ptycho_torch.residuals import measure_residuals
from ptycho_torch.simulate import simulate_scan
from tests.thread_ranks import run_on_ranks

# λ·spacing is ten square object pixels: slices blur one another over about ten pixels.
SPACING_M = 1e-3
GEOMETRY = Geometry(energy_eV=8800.0, distance_m=2.0, detector_pixel_m=(75e-6, 75e-6))


@pytest.fixture(scope="module")
def scan():
    """100 frames of 32² through two slices of dead leaves."""
    return simulate_scan(
        SimulateConfig(
            n_positions=100, patch_size=32, step_px=3.5, jitter_px=0.7, start_probe="true", object="leaves",
            probe_defocus_px2=25.0, n_slices=2, slice_spacing_m=SPACING_M,
        )
    )  # fmt: skip


def engine_of(scan, ranks=None, **options):
    ranks = ranks or SerialRanks()
    first, last = shard_bounds(scan.n_positions, ranks.rank, ranks.size)
    problem = load_problem(scan, hilbert_order(scan.positions_px)[first:last], ranks)
    config = RefineConfig(**{"slice_spacing_m": SPACING_M, "stop_at_plateau": False, **options})
    engine, config = choose_engine(config, problem)
    return engine(problem, config, ranks, scan.probe)


def refined(scan, ranks=None, **options):
    engine = engine_of(scan, ranks, **options)
    for epoch in range(1, engine.config.epochs + 1):
        result = engine.run_epoch(epoch)
    return engine.image(), result.r_factor


def phase_error_rad(scan, image, truth):
    region = scanned_region(scan.positions_px, scan.truth.probe, scan.truth.grid)
    return score(align(image, truth, region).image, truth, region).phase_rmse_rad


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "mpie", "gradient"])
def test_slices_are_recovered_and_a_thin_object_is_worse(scan, engine):
    thick, thick_r = refined(scan, engine=engine, epochs=40, slices=2)
    thin, thin_r = refined(scan, engine=engine, epochs=40)
    assert thick_r < 0.65 * thin_r
    assert phase_error_rad(scan, thick.object, scan.truth.object) < 0.03
    assert phase_error_rad(scan, thin.object, scan.truth.object) > 0.05
    for found, true in zip(thick.slices, scan.truth.slices, strict=True):
        assert phase_error_rad(scan, found, true) < 0.045
        assert phase_error_rad(scan, np.ones_like(true), true) > 0.14
    np.testing.assert_allclose(thick.object, thick.slices.prod(0), rtol=1e-5)


@pytest.mark.parametrize("engine", ["mpie", "lsqml", "gradient"])
def test_the_number_of_ranks_does_not_change_the_slices(scan, engine):
    options = {"engine": engine, "epochs": 2, "slices": 2}
    (alone,) = run_on_ranks(1, lambda ranks: refined(scan, ranks, **options))
    for image, r_factor in run_on_ranks(3, lambda ranks: refined(scan, ranks, **options)):
        assert np.linalg.norm(image.slices - alone[0].slices) <= 1e-5 * np.linalg.norm(alone[0].slices)
        assert r_factor == pytest.approx(alone[1], rel=1e-4)


@pytest.mark.parametrize("engine", ["mpie", "lsqml", "gradient"])
def test_slices_go_on_bit_for_bit(scan, engine):
    options = {"engine": engine, "epochs": 4, "slices": 3, "slice_spacing_m": 5e-4}
    never_stopped, resumed = engine_of(scan, **options), engine_of(scan, **options)
    for epoch in (1, 2):
        never_stopped.run_epoch(epoch)
    resumed.load_state_dict(never_stopped.state_dict(), never_stopped.frame_state_dict())
    assert never_stopped.run_epoch(3).r_factor == resumed.run_epoch(3).r_factor
    assert np.array_equal(never_stopped.image().slices, resumed.image().slices)


def test_corrections_work_on_thick_objects(scan):
    options = {
        "position_correction": "gradient", "position_start_epoch": 2, "frame_intensity": True, "probe_variations": 1,
        "background": "constant", "object_tv": 1e-3,
    }  # fmt: skip
    roomy = replace(scan, object_grid=ObjectGrid.covering(scan.positions_px, 32, margin=8))
    (_, before), (image, after) = (refined(roomy, epochs=n, slices=2, **options) for n in (1, 6))
    assert after < 0.6 * before
    assert np.abs(image.per_frame["position_offset_px"]).max() < 1


def test_what_pulls_on_slices_and_probe_is_the_adjoint_of_what_they_do(scan):
    problem = load_problem(scan, np.arange(7), _Alone(scan.n_positions - 7))
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.complex64, generator=generator)

    image, probe = drawn(3, *scan.grid.shape), drawn(2, 32, 32)
    estimate = Estimate(problem, image, probe, (), SPACING_M)
    chunk = estimate.look(torch.arange(7))
    moved_image, moved_probe, waves = drawn(*image.shape), drawn(*probe.shape), drawn(*chunk.waves.shape)
    forward = torch.vdot(estimate.tangent(chunk, moved_image, moved_probe).flatten(), waves.flatten())
    sums = Sums(image, probe)
    trace = estimate.trace(chunk, waves)
    sums.add_probe(trace)
    sums.add_object(trace)
    back = torch.vdot(moved_image.flatten(), sums.object.flatten())
    back = back + torch.vdot(moved_probe.flatten(), sums.probe.flatten())
    assert abs(forward - back) < 1e-5 * float(moved_image.norm() * sums.object.norm())


class _Alone(SerialRanks):
    """One rank, told of frames that others own."""

    def __init__(self, n_others):
        self._n_others = n_others

    def all_sum(self, buffer):
        if buffer.shape == (3,):
            buffer[0] += self._n_others


def test_a_tangent_is_what_a_small_step_does(scan):
    problem = load_problem(scan, np.arange(scan.n_positions), SerialRanks())
    slices = torch.from_numpy(scan.truth.slices).to(torch.complex64)
    generator = torch.Generator().manual_seed(0)
    step = 1e-2 * torch.randn(slices.shape, dtype=torch.complex64, generator=generator)
    before, after = (
        Estimate(problem, image, torch.from_numpy(scan.probe), (), SPACING_M) for image in (slices, slices + step)
    )
    rows = torch.arange(4)
    chunk = before.look(rows)
    moved = after.look(rows).waves - chunk.waves
    assert (before.tangent(chunk, step, None) - moved).norm() < 0.02 * moved.norm()


def test_flights_between_slices_add_up_and_keep_the_light():
    one, two, both = (slice_flight(z, GEOMETRY, 32) for z in (1e-3, 2e-3, 3e-3))
    assert torch.allclose(one * two, both, atol=1e-4)
    assert torch.allclose(both.abs(), torch.ones(32, 32))
    pixel_m = GEOMETRY.object_pixel(32)[0]
    assert torch.allclose(one, flight(32, GEOMETRY.wavelength_m * 1e-3 / pixel_m**2), atol=1e-3)


def test_at_wide_angles_waves_that_do_not_travel_are_dropped():
    coarse = Geometry(energy_eV=2.0, object_pixel_m=(2e-7, 2e-7))
    assert float(slice_flight(1e-6, coarse, 16).abs().min()) == 0


def test_slices_without_distance_act_as_their_product():
    generator = torch.Generator().manual_seed(0)
    slices = torch.randn(3, 20, 20, dtype=torch.complex128, generator=generator)
    light = torch.randn(2, 8, 8, dtype=torch.complex128, generator=generator)
    windows = Windows.at(torch.tensor([[2.0, 3.0], [7.0, 11.0]]), 8, (20, 20))
    nothing = slice_flight(None, Geometry(), 8)
    *_, thick = traverse(light, slices, windows, nothing)[-1]
    *_, thin = traverse(light, slices.prod(0, keepdim=True), windows, nothing)[-1]
    assert torch.allclose(thick, thin)


def test_residuals_count_the_slices(scan, tmp_path):
    image, r_factor = refined(scan, epochs=8, slices=2)
    write_image(image, tmp_path / "image.h5")
    kept = read_image(tmp_path / "image.h5")
    assert kept.slice_spacing_m == SPACING_M
    found = measure_residuals(
        scan, np.arange(scan.n_positions), kept, kept.probe, SerialRanks(), device=torch.device("cpu")
    )
    assert found.r_factor == pytest.approx(r_factor, rel=0.1)


def test_an_image_is_moved_to_another_grid_with_its_slices(scan):
    image, _ = refined(scan, epochs=1, slices=2)
    height, width = image.grid.shape
    wider = image.on(ObjectGrid(shape=(height + 3, width + 5), origin_px=(-2.0, -4.0)))
    assert np.array_equal(wider.slices[:, 2 : 2 + height, 4 : 4 + width], image.slices)
    assert np.array_equal(wider.on(image.grid).slices, image.slices)


def test_slices_that_cannot_be_are_refused(scan):
    with pytest.raises(ValueError, match="slices = 2: needs slice_spacing_m"):
        RefineConfig(slices=2)
    with pytest.raises(ValueError, match='engine "dm" projects onto one thin object'):
        RefineConfig(slices=2, slice_spacing_m=1e-6, engine="dm")
    with pytest.raises(DataError, match="a thick object needs the wavelength"):
        engine_of(replace(scan, geometry=Geometry()), slices=2)
