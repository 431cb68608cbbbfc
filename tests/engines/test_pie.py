"""The iterative engine: recovers what was simulated, whatever the ranks, the start and the holes in the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.scan import ArrayFrames
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho.errors import WorkError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import complex_error, scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.simulate import simulate_scan
from tests.builders import make_scan
from tests.thread_ranks import run_on_ranks

CONFIG = RefineConfig(epochs=24, batch_size=12)


@pytest.fixture(scope="module")
def scan():
    """100 frames of 32² at 1e6 photons; the start probe has another curvature than the true one."""
    made = make_scan(n=100, N=32, photons=1e6, step_px=3.0)
    y, x = np.mgrid[:32, :32] - 16
    return replace(made, probe=(made.probe * np.exp(0.004j * (x**2 + y**2))).astype(np.complex64))


def engine_of(scan, config=CONFIG, ranks=None, probe=None, start=None, seed=0):
    ranks = ranks or SerialRanks()
    first, last = shard_bounds(scan.n_positions, ranks.rank, ranks.size)
    problem = load_problem(scan, hilbert_order(scan.positions_px)[first:last], ranks)
    return Pie(problem, config, ranks, scan.probe if probe is None else probe, start, seed=seed)


def swept(engine, epochs=None):
    return [engine.run_epoch(epoch).r_factor for epoch in range(1, (epochs or engine.config.epochs) + 1)]


def phase_error_rad(engine, scan):
    region = scanned_region(scan.positions_px, scan.truth.probe, scan.grid)
    return score(align(engine.object, scan.truth.object, region).image, scan.truth.object, region).phase_rmse_rad


def relative(image, other):
    return float(np.linalg.norm(image - other) / np.linalg.norm(other))


def test_a_wrong_probe_and_a_flat_object_become_the_true_ones(scan):
    engine = engine_of(scan)
    r_factors = swept(engine)
    assert r_factors[-1] < 0.02
    assert phase_error_rad(engine, scan) < 0.02
    everywhere = np.ones((32, 32), bool)
    aligned = align(engine.probe[0], scan.truth.probe[0], everywhere).image
    assert complex_error(aligned, scan.truth.probe[0], everywhere) < 0.05


def test_the_error_does_not_turn_up_after_its_minimum(scan):
    engine = engine_of(scan)
    errors = []
    for epoch in range(1, CONFIG.epochs + 1):
        engine.run_epoch(epoch)
        errors.append(phase_error_rad(engine, scan))
    assert max(errors[int(np.argmin(errors)) :]) <= 1.02 * min(errors)


def test_low_dose_frames_with_no_counts_at_all_do_no_harm():
    scan = make_scan(n=64, N=32, photons=300)
    counts = scan.frames.counts.copy()
    counts[::5] = 0
    engine = engine_of(replace(scan, frames=ArrayFrames(counts)))
    swept(engine)
    assert np.isfinite(engine.object).all()
    assert np.isfinite(engine.probe).all()
    assert np.abs(engine.object).max() < 3


def test_epie_converges_too(scan):
    engine = engine_of(scan, replace(CONFIG, engine="epie"))
    assert swept(engine)[-1] < 0.025


@pytest.mark.parametrize("size", [2, 3, 4])
def test_any_number_of_ranks_makes_the_same_object_and_probe(scan, size):
    def refined(ranks):
        engine = engine_of(scan, ranks=ranks)
        r_factors = swept(engine, 6)
        return engine.object, engine.probe, r_factors

    (alone,) = run_on_ranks(1, refined)
    for image, probe, r_factors in run_on_ranks(size, refined):
        # Measured: 2e-6. Float sums in another order, amplified a little by six epochs of a nonlinear iteration.
        assert relative(image, alone[0]) <= 1e-5
        assert relative(probe, alone[1]) <= 1e-5
        assert r_factors == pytest.approx(alone[2], rel=1e-5)


def test_more_ranks_than_members_in_a_batch_agree_exactly_with_one_another(scan):
    few = replace(CONFIG, batch_size=2)

    def refined(ranks):
        engine = engine_of(scan, few, ranks)
        swept(engine, 1)
        return engine.image()

    first, *others = run_on_ranks(5, refined)
    for image in others:
        assert np.array_equal(image.object, first.object)
        assert np.array_equal(image.coverage, first.coverage)


def test_a_resumed_engine_goes_on_bit_for_bit(scan):
    never_stopped = engine_of(scan)
    swept(never_stopped, 4)
    state = never_stopped.state_dict()
    resumed = engine_of(scan)
    resumed.load_state_dict(state)
    for epoch in range(5, 10):
        assert never_stopped.run_epoch(epoch).r_factor == resumed.run_epoch(epoch).r_factor
    assert np.array_equal(never_stopped.object, resumed.object)
    assert np.array_equal(never_stopped.probe, resumed.probe)


def test_a_state_is_a_copy(scan):
    engine = engine_of(scan)
    state = engine.state_dict()
    swept(engine, 1)
    assert torch.equal(state["object"], torch.ones_like(state["object"]))


def test_a_state_of_another_scan_is_refused(scan):
    with pytest.raises(ValueError, match="engine state 'object'"):
        engine_of(scan).load_state_dict(engine_of(make_scan(n=9, N=32)).state_dict())


def test_the_order_of_frames_depends_on_seed_and_epoch_alone(scan):
    problem = load_problem(scan, np.arange(100), SerialRanks())
    batches = {key: torch.cat(problem.batches(10, *key)) for key in [(0, 1), (0, 2), (1, 1)]}
    assert torch.equal(batches[0, 1], torch.cat(problem.batches(10, 0, 1)))
    assert not torch.equal(batches[0, 1], batches[0, 2])
    assert not torch.equal(batches[0, 1], batches[1, 1])
    assert sorted(batches[0, 1].tolist()) == list(range(100))


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_power_of_the_start_probe_and_the_scale_of_the_start_object_do_not_matter(scan, factor):
    start = np.full(scan.grid.shape, 0.9 + 0.1j, np.complex64)
    plain, odd = engine_of(scan, start=start), engine_of(scan, probe=scan.probe * factor, start=start * factor)
    swept(plain, 2)
    swept(odd, 2)
    assert relative(odd.object, plain.object) < 1e-4
    assert relative(odd.probe, plain.probe) < 1e-4


def test_the_probe_has_the_photons_of_the_data(scan):
    engine = engine_of(scan)
    swept(engine, 5)
    mean_photons = scan.frames.counts.sum() / scan.n_positions
    assert float((np.abs(engine.probe) ** 2).sum()) == pytest.approx(mean_photons, rel=1e-4)


def test_a_second_mode_is_recovered_from_a_probe_of_one():
    spot = SimulateConfig(
        n_positions=144, patch_size=32, step_px=3, jitter_px=1, photons=1e7, probe="gaussian", probe_diameter_px=10,
        mode_fractions=(0.7, 0.3), start_probe="true",
    )  # fmt: skip
    scan, config = simulate_scan(spot), RefineConfig(epochs=40, batch_size=12)
    one = engine_of(scan, config, probe=scan.probe[:1])
    two = engine_of(scan, replace(config, probe_modes=2), probe=scan.probe[:1])
    assert swept(two)[-1] < 0.5 * swept(one)[-1]
    assert phase_error_rad(two, scan) < 0.05 < phase_error_rad(one, scan)
    power = (np.abs(two.probe) ** 2).sum((1, 2))
    assert power / power.sum() == pytest.approx([0.7, 0.3], abs=0.08)
    assert abs(np.vdot(two.probe[0], two.probe[1])) < 1e-4 * np.sqrt(power.prod())


def test_dead_and_hot_pixels_do_no_harm_when_masked(scan):
    rng = np.random.default_rng(0)
    good = rng.random((32, 32)) > 0.05
    counts = scan.frames.counts.astype(np.float32)
    counts[:, ~good] = rng.choice([0, 60_000], (~good).sum())
    spoiled = replace(scan, frames=ArrayFrames(counts))
    masked, unmasked = engine_of(replace(spoiled, mask=good)), engine_of(spoiled)
    swept(masked)
    swept(unmasked)
    assert phase_error_rad(masked, scan) < 0.03
    assert phase_error_rad(unmasked, scan) > 3 * phase_error_rad(masked, scan)
    # What masked pixels would have seen is added to the photons of the probe.
    all_photons = float(scan.frames.counts.sum() / scan.n_positions)
    assert float((np.abs(masked.probe) ** 2).sum()) == pytest.approx(all_photons, rel=0.02)


def test_a_fixed_probe_stays_until_its_first_epoch(scan):
    engine = engine_of(scan, replace(CONFIG, probe_start_epoch=3))
    start = engine.probe
    swept(engine, 2)
    assert np.array_equal(engine.probe, start)
    engine.run_epoch(3)
    assert relative(engine.probe, start) > 1e-3


def test_a_good_start_needs_fewer_epochs(scan):
    warm, flat = engine_of(scan, start=scan.truth.object), engine_of(scan)
    assert swept(warm, 3)[-1] < swept(flat, 3)[-1]


def test_the_engine_stops_when_nothing_improves(scan):
    stopping = RefineConfig(epochs=200, batch_size=12, anneal_from=0.0)
    engine = engine_of(scan, stopping)
    results = []
    for epoch in range(1, 201):
        results.append(engine.run_epoch(epoch))
        if results[-1].is_converged:
            break
    assert results[-1].is_converged
    assert 100 < len(results) < 200
    keen = engine_of(scan, replace(stopping, stop_at_plateau=False, epochs=4))
    assert not any(keen.run_epoch(epoch).is_converged for epoch in range(1, 5))


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_scan_of_few_frames_that_overlap_much_does_not_diverge(batch_size):
    few = make_scan(n=16, N=16)
    engine = engine_of(few, RefineConfig(epochs=30, batch_size=batch_size, stop_at_plateau=False))
    errors = [engine.run_epoch(epoch).r_factor for epoch in range(1, 31)]
    assert errors[-1] < 0.03
    assert errors[-1] <= 1.02 * min(errors)


def test_divergence_is_told_in_one_sentence_with_epoch_and_remedy(scan):
    engine = engine_of(scan)
    swept(engine, 1)
    state = engine.state_dict()
    state["object"][:, 20:40, 20:40] = float("nan")
    engine.load_state_dict(state)
    with pytest.raises(WorkError, match=r"diverged in epoch 2: R-factor nan after 0\.\d+.*lower refine\.momentum"):
        engine.run_epoch(2)


@pytest.mark.parametrize(
    ("probe", "start", "message"),
    [
        (np.ones((1, 16, 16), np.complex64), None, "must be .mode, 32, 32."),
        (np.zeros((1, 32, 32), np.complex64), None, "all zero"),
        (None, np.ones((5, 5), np.complex64), "as the grid is"),
        (None, "nan", "not finite"),
        (None, "zero", "zero wherever light falls"),
    ],
)
def test_starts_that_cannot_be_used_are_refused(scan, probe, start, message):
    if isinstance(start, str):
        start = np.full(scan.grid.shape, {"nan": np.nan, "zero": 0}[start], np.complex64)
    with pytest.raises(ValueError, match=message):
        engine_of(scan, probe=probe, start=start)


def test_the_image_says_where_light_fell(scan):
    image = engine_of(scan).image()
    assert image.coverage.sum() == pytest.approx(float(scan.frames.counts.sum()), rel=1e-3)
    assert image.coverage[scan.grid.shape[0] // 2, scan.grid.shape[1] // 2] > 100 * image.coverage[0, 0]
