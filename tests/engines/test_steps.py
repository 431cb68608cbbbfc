"""The steps inside engines: L-BFGS, step lengths of LSQ-ML, streamed frames."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.choice import choose_engine
from ptycho_torch.engines.estimate import Estimate
from ptycho_torch.engines.lsqml import frame_steps
from ptycho_torch.engines.memory import free_bytes
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.engines.quasi_newton import Lbfgs
from ptycho_torch.engines.streaming import StreamedAmplitude
from ptycho_torch.physics.patches import extract_patches
from ptycho_torch.physics.propagate import Propagator
from tests.builders import CountingFrames, make_scan


def test_lbfgs_finds_the_minimum_of_an_ill_conditioned_quadratic():
    scales = torch.logspace(0, 3, 20)
    lowest = torch.linspace(-1, 1, 20)
    lbfgs, at = Lbfgs(20, torch.device("cpu")), torch.zeros(20)

    def evaluate(x):
        return float((scales * (x - lowest).square()).sum()), 2 * scales * (x - lowest)

    values = []
    for _ in range(130):
        at = lbfgs.step(at, evaluate)
        values.append(evaluate(at)[0])
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(values))
    assert torch.allclose(at, lowest, atol=1e-3)


def test_lbfgs_stays_where_nothing_is_lower():
    lbfgs, at = Lbfgs(3, torch.device("cpu")), torch.ones(3)
    for _ in range(3):
        at = lbfgs.step(at, lambda x: (0.0, torch.zeros_like(x)))
    assert torch.equal(at, torch.ones(3))


def test_step_lengths_are_those_that_explain_the_residual():
    scan = make_scan(n=9, N=16)
    problem = load_problem(scan, np.arange(9), SerialRanks())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(scan.grid.shape, dtype=torch.complex64, generator=generator)
    probe = 30 * torch.randn(1, 16, 16, dtype=torch.complex64, generator=generator)
    flat = torch.ones(1, *scan.grid.shape, dtype=torch.complex64)
    chunk = Estimate(problem, flat, torch.from_numpy(scan.probe)).look(torch.arange(9))
    moved_object = chunk.probe * extract_patches(image, chunk.windows).unsqueeze(1)
    moved_probe = probe * chunk.patches.unsqueeze(1)
    by_object, by_probe = frame_steps(moved_object, moved_probe, 0.5 * moved_object + 1.25 * moved_probe)
    # The ridge makes steps a tenth shorter than the exact 0.5 and 1.25.
    assert by_object.mean() == pytest.approx(0.5, rel=0.2)
    assert by_probe.mean() == pytest.approx(1.25, rel=0.2)
    by_object, none = frame_steps(moved_object, None, 0.5 * moved_object)
    assert torch.allclose(by_object, torch.full((9,), 0.5))
    assert not none.any()


def test_streamed_amplitudes_are_those_in_memory_in_any_order():
    scan = make_scan(n=9, N=16)
    kept = load_problem(scan, np.arange(9)[::-1], SerialRanks()).amplitude
    frames = CountingFrames(scan.frames)
    streamed = StreamedAmplitude(frames, np.arange(9)[::-1], None, Propagator())
    chunks = [torch.tensor([4, 2]), torch.tensor([0]), torch.tensor([], dtype=torch.int64), torch.tensor([8, 7, 1])]
    streamed.plan(chunks)
    for rows in [*chunks, torch.tensor([3, 3])]:
        assert torch.equal(streamed.index_select(0, rows), kept.index_select(0, rows))
    # A chunk that was not planned is read too, and a new plan drops the old one.
    streamed.plan(chunks)
    assert torch.equal(streamed.index_select(0, torch.tensor([5])), kept[5:6])
    assert frames.largest_read == 3


def test_frames_stay_in_the_file_when_they_do_not_fit():
    scan = make_scan(n=9, N=16)
    problem = load_problem(scan, np.arange(9), SerialRanks(), memory_limit_mb=0.009)
    assert isinstance(problem.amplitude, StreamedAmplitude)
    assert problem.patch_size == 16
    assert problem.mean_photons == pytest.approx(scan.frames.counts.sum() / 9)
    assert isinstance(load_problem(scan, np.arange(9), SerialRanks(), memory_limit_mb=0.01).amplitude, torch.Tensor)


def test_free_memory_is_less_than_the_machine_has():
    assert 0 < free_bytes() < 2**50


def test_auto_goes_by_the_light_and_no_engine_is_refused():
    auto = RefineConfig(engine="auto", epochs=7)
    for photons, name in ((1e4, "mpie"), (100, "rpie")):
        problem = load_problem(make_scan(n=9, N=16, photons=photons), np.arange(9), SerialRanks())
        engine, config = choose_engine(auto, problem)
        assert (engine, config.engine, config.epochs) == (Pie, name, 7)
    with pytest.raises(ValueError, match="engine = 'none': must be one of"):
        choose_engine(RefineConfig(engine="none"), problem)
