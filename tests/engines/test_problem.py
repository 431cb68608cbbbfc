"""A rank's data: amplitudes of its frames, tallies of the whole scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.data.scan import ArrayFrames
from ptycho.errors import DataError
from ptycho.parallel import SerialRanks
from ptycho_torch.engines import problem as problem_module
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.physics.propagate import to_centred
from tests.builders import CountingFrames, make_scan
from tests.thread_ranks import run_on_ranks


def test_amplitudes_are_roots_of_counts_in_fft_order_with_masked_pixels_dark():
    scan = make_scan(n=9, N=16)
    mask = np.ones((16, 16), bool)
    mask[3, 5] = False
    problem = load_problem(replace(scan, mask=mask), np.array([4, 2]), _TwoOfNine())
    np.testing.assert_allclose(
        to_centred(problem.amplitude).square().numpy(), scan.frames.counts[[4, 2]] * mask, rtol=1e-5, atol=1e-6
    )
    assert np.array_equal(to_centred(problem.good).numpy(), mask)


class _TwoOfNine(SerialRanks):
    """Stands for ranks that own the other seven frames."""

    def all_sum(self, buffer):
        buffer[0] += 7


def test_a_mask_without_bad_pixels_is_no_mask():
    scan = replace(make_scan(n=9, N=16), mask=np.ones((16, 16), bool))
    assert load_problem(scan, np.arange(9), SerialRanks()).good is None


def test_tallies_are_of_the_whole_scan_on_every_rank():
    scan = make_scan(n=9, N=16)
    one = load_problem(scan, np.arange(9), SerialRanks())
    assert one.mean_photons == pytest.approx(scan.frames.counts.sum() / 9)
    for part in run_on_ranks(3, lambda ranks: load_problem(scan, np.arange(ranks.rank, 9, 3), ranks)):
        assert (part.mean_photons, part.n_total) == (pytest.approx(one.mean_photons), 9)
        assert part.amplitude_sum == pytest.approx(one.amplitude_sum)


def test_frames_are_read_in_parts(monkeypatch):
    scan = make_scan(n=9, N=16)
    frames = CountingFrames(scan.frames)
    monkeypatch.setattr(problem_module, "_READ_BYTES", 4 * 4 * 16 * 16)
    in_parts = load_problem(replace(scan, frames=frames), np.arange(9), SerialRanks())
    assert frames.largest_read == 4
    assert torch.equal(in_parts.amplitude, load_problem(scan, np.arange(9), SerialRanks()).amplitude)


def test_frames_without_an_owner_are_refused():
    with pytest.raises(ValueError, match="the ranks own 8 frames of a scan of 9"):
        load_problem(make_scan(n=9, N=16), np.arange(8), SerialRanks())


def test_a_scan_without_counts_is_refused():
    scan = make_scan(n=9, N=16)
    with pytest.raises(DataError, match="no counts on any good pixel"):
        load_problem(replace(scan, frames=ArrayFrames(np.zeros((9, 16, 16)))), np.arange(9), SerialRanks())
