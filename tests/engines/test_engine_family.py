"""Laws that every engine obeys: it recovers what was simulated, resumes exactly, and does not depend on the ranks."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config.refine import RefineConfig
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho.errors import RequestError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.choice import choose_engine
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.stages.refinement_checkpoint import RefinementCheckpoint
from tests.builders import make_scan
from tests.thread_ranks import run_on_ranks

CONFIGS = {
    "epie": RefineConfig(engine="epie"),
    "rpie": RefineConfig(engine="rpie"),
    "mpie": RefineConfig(engine="mpie"),
    "lsqml": RefineConfig(engine="lsqml"),
    "dm": RefineConfig(engine="dm", epochs=60),
    "raar": RefineConfig(engine="raar", epochs=60),
    "adam": RefineConfig(engine="gradient"),
    "lbfgs": RefineConfig(engine="gradient", optimizer="lbfgs", epochs=60),
    "poisson": RefineConfig(engine="gradient", optimizer="lbfgs", likelihood="poisson", epochs=60),
}


@pytest.fixture(scope="module")
def scan():
    """81 frames of 32² at 1e6 photons; the start probe has another curvature than the true one."""
    made = make_scan(n=81, N=32, photons=1e6, step_px=3.0)
    y, x = np.mgrid[:32, :32] - 16
    return replace(made, probe=(made.probe * np.exp(0.004j * (x**2 + y**2))).astype(np.complex64))


def owned(scan, ranks):
    first, last = shard_bounds(scan.n_positions, ranks.rank, ranks.size)
    return hilbert_order(scan.positions_px)[first:last]


def engine_of(scan, config, ranks=None, memory_limit_mb=None):
    ranks = ranks or SerialRanks()
    problem = load_problem(scan, owned(scan, ranks), ranks, memory_limit_mb=memory_limit_mb)
    engine, config = choose_engine(config, problem)
    return engine(problem, config, ranks, scan.probe, seed=2)


def phase_error_rad(engine, scan):
    region = scanned_region(scan.positions_px, scan.truth.probe, scan.grid)
    return score(align(engine.object, scan.truth.object, region).image, scan.truth.object, region).phase_rmse_rad


def relative(image, other):
    return float(np.linalg.norm(image - other) / np.linalg.norm(other))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_engine_recovers_the_object_and_its_error_does_not_turn_up(scan, name):
    engine = engine_of(scan, CONFIGS[name])
    errors = []
    for epoch in range(1, CONFIGS[name].epochs + 1):
        result = engine.run_epoch(epoch)
        assert result.epoch == epoch
        if epoch % 6 == 0:
            errors.append(phase_error_rad(engine, scan))
        if result.is_converged:
            break
    assert result.r_factor < 0.03
    assert errors[-1] < 0.03
    assert errors[-1] <= 1.02 * min(errors)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_engine_resumes_bit_for_bit(scan, name):
    config = replace(CONFIGS[name], epochs=8)
    never_stopped = engine_of(scan, config)
    for epoch in range(1, 9):
        if epoch in (4, 7):
            resumed = engine_of(scan, config)
            resumed.load_state_dict(never_stopped.state_dict(), never_stopped.frame_state_dict())
            never_stopped, other = resumed, never_stopped
            for later in range(epoch, 9):
                other.run_epoch(later)
        never_stopped.run_epoch(epoch)
    assert np.array_equal(never_stopped.object, other.object)
    assert np.array_equal(never_stopped.probe, other.probe)


@pytest.mark.parametrize(
    ("name", "size"),
    [("dm", 2), ("dm", 4), ("raar", 2), *((name, 3) for name in CONFIGS if name not in ("dm", "raar", "rpie", "epie"))],
)
def test_any_number_of_ranks_makes_the_same_object(scan, name, size):
    config = replace(CONFIGS[name], epochs=6)

    def refined(ranks):
        engine = engine_of(scan, config, ranks)
        return [engine.run_epoch(epoch).r_factor for epoch in range(1, 7)], engine.object

    (alone,) = run_on_ranks(1, refined)
    for r_factors, image in run_on_ranks(size, refined):
        assert relative(image, alone[1]) <= 1e-5
        assert r_factors == pytest.approx(alone[0], rel=1e-4)


@pytest.mark.parametrize("name", ["dm", "rpie"])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 3)])
def test_a_checkpoint_resumes_on_another_number_of_ranks(scan, tmp_path, name, before, after):
    config = replace(CONFIGS[name], epochs=8)

    def begun(ranks):
        engine = engine_of(scan, config, ranks)
        checkpoint = RefinementCheckpoint(tmp_path, ranks, owned(scan, ranks))
        assert checkpoint.restore(engine) == (0, False)
        for epoch in range(1, 5):
            engine.run_epoch(epoch)
            checkpoint.save(engine, epoch, is_converged=False)
        # Goes on after its last checkpoint, and dies.
        engine.run_epoch(5)

    def gone_on(ranks):
        engine = engine_of(scan, config, ranks)
        checkpoint = RefinementCheckpoint(tmp_path, ranks, owned(scan, ranks))
        assert checkpoint.restore(engine) == (4, False)
        for epoch in range(5, 9):
            engine.run_epoch(epoch)
        return engine.object

    run_on_ranks(before, begun)
    n_parts = before if name == "dm" else 0
    assert len(list(tmp_path.iterdir())) == 1 + n_parts
    never_stopped = engine_of(scan, config)
    for epoch in range(1, 9):
        never_stopped.run_epoch(epoch)
    for image in run_on_ranks(after, gone_on):
        assert relative(image, never_stopped.object) <= 1e-5
    RefinementCheckpoint(tmp_path, SerialRanks(), owned(scan, SerialRanks())).delete()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_frames_is_refused(scan, tmp_path):
    engine = engine_of(scan, CONFIGS["dm"])
    RefinementCheckpoint(tmp_path, SerialRanks(), np.arange(81) + 500).save(engine, 1, is_converged=False)
    with pytest.raises(Exception, match="state of 0 of this rank's 81 frames"):
        RefinementCheckpoint(tmp_path, SerialRanks(), np.arange(81)).restore(engine)


@pytest.mark.parametrize("name", ["rpie", "lsqml", "adam", "lbfgs"])
def test_streamed_frames_make_the_same_object_as_frames_in_memory(scan, name):
    config = replace(CONFIGS[name], epochs=3)
    images = []
    for limit in (None, 0.01):
        engine = engine_of(scan, config, memory_limit_mb=limit)
        for epoch in range(1, 4):
            engine.run_epoch(epoch)
        images.append(engine.object)
    assert np.array_equal(*images)


@pytest.mark.parametrize("name", ["dm", "raar"])
def test_engines_that_keep_exit_waves_refuse_frames_that_do_not_fit_memory(scan, name):
    with pytest.raises(RequestError, match=f'Engine "{name}" keeps an exit wave of every frame'):
        engine_of(scan, CONFIGS[name], memory_limit_mb=0.01)


@pytest.mark.parametrize("batching", ["compact", "uniform"])
def test_other_batches_come_to_the_same_object(scan, batching):
    engine = engine_of(scan, replace(CONFIGS["rpie"], batching=batching))
    for epoch in range(1, 31):
        engine.run_epoch(epoch)
    assert phase_error_rad(engine, scan) < 0.03
