"""Coarse epochs on the middle of the detector bring slow phase sooner, on any number of ranks."""

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.errors import DataError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.coarse import coarse_scan, finer
from ptycho_torch.simulate import simulate_scan
from ptycho_torch.stages.refinement import build_engine
from tests.builders import make_scan
from tests.thread_ranks import run_on_ranks

CPU = torch.device("cpu")


def refined(scan, ranks, epochs, **options):
    engine = build_engine(scan, RefineConfig(engine="mpie", **options), ranks, CPU, seed=1)
    for epoch in range(1, epochs + 1):
        engine.run_epoch(epoch)
    return engine.image()


def phase_error_rad(scan, image):
    region = scanned_region(scan.positions_px, scan.truth.probe, scan.truth.grid)
    found = align(image.on(scan.truth.grid).object, scan.truth.object, region).image
    return score(found, scan.truth.object, region).phase_rmse_rad


@pytest.mark.slow
def test_after_coarse_epochs_slow_phase_comes_sooner():
    scan = simulate_scan(SimulateConfig(n_positions=256))
    fine, coarse = refined(scan, SerialRanks(), 3), refined(scan, SerialRanks(), 2, coarse_epochs=4)
    # Four coarse epochs cost about as much as one fine one.
    assert phase_error_rad(scan, coarse) < 0.8 * phase_error_rad(scan, fine)


def test_the_number_of_ranks_does_not_change_a_coarse_start():
    scan = make_scan(n=36, N=16, photons=1e6, step_px=4.0)
    (alone,) = run_on_ranks(1, lambda ranks: refined(scan, ranks, 1, coarse_epochs=2))
    image = run_on_ranks(3, lambda ranks: refined(scan, ranks, 1, coarse_epochs=2))[0]
    lit = alone.coverage > 0
    assert np.linalg.norm((image.object - alone.object)[lit]) < 1e-5 * np.linalg.norm(alone.object[lit])


def test_what_is_coarse_is_made_fine_where_it_was():
    scan = simulate_scan(SimulateConfig(n_positions=64, object="field", feature_px=20.0, start_probe="true"))
    coarse = coarse_scan(scan, scan.probe)
    image = refined(coarse, SerialRanks(), 12)
    fine, probe = finer(image, scan, scan.probe)
    region = scanned_region(scan.positions_px, scan.truth.probe, scan.truth.grid)
    found = align(fine, scan.truth.object, region)
    assert np.hypot(*found.shift_px) < 0.2
    overlap = abs(np.vdot(probe, scan.truth.probe)) / np.linalg.norm(probe) / np.linalg.norm(scan.truth.probe)
    assert overlap > 0.99
    mean_counts = scan.frames.read(np.arange(64)).sum() / 64
    assert (np.abs(probe) ** 2).sum() == pytest.approx(mean_counts, rel=0.02)


def test_frames_that_cannot_be_halved_are_refused():
    with pytest.raises(DataError, match=r"refine\.coarse_epochs: small has frames of 18 pixels; only far fields"):
        refined(make_scan(n=9, N=18), SerialRanks(), 1, coarse_epochs=1)
    with pytest.raises(ValueError, match="coarse epochs know one thin object"):
        RefineConfig(coarse_epochs=2, slices=2, slice_spacing_m=1e-6)
