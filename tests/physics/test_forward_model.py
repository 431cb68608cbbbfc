"""The forward model's laws: energy, inverse, shift, dose."""

import numpy as np
import pytest
import torch

from ptycho_torch.physics.forward import expected_counts, illuminate, intensity
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import far_field, near_sample, to_centred, to_fft_order
from tests.builders import make_scan


def waves(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [7, 8])
def test_propagation_conserves_energy_and_is_undone_by_its_adjoint(size):
    near, far = waves(3, size, size), waves(3, size, size, seed=1)
    assert torch.allclose(far_field(near).abs().square().sum(), near.abs().square().sum())
    assert torch.allclose(near_sample(far_field(near)), near)
    left = torch.vdot(far_field(near).flatten(), far.flatten())
    assert torch.allclose(left, torch.vdot(near.flatten(), near_sample(far).flatten()))


@pytest.mark.parametrize("size", [7, 8])
def test_fft_order_puts_the_centre_first_and_back(size):
    pattern = torch.zeros(size, size)
    pattern[size // 2, size // 2] = 1
    assert to_fft_order(pattern)[0, 0] == 1
    assert torch.equal(to_centred(to_fft_order(pattern)), pattern)


def test_a_shifted_object_under_shifted_windows_gives_the_same_counts():
    image, probe = waves(30, 30), waves(2, 8, 8, seed=1)
    corners = torch.tensor([[3.25, 4.5], [9.0, 7.75]])
    moved = torch.roll(image, (5, 6), (0, 1))
    here = extract_patches(image, Windows.at(corners, 8, (30, 30)))
    there = extract_patches(moved, Windows.at(corners + torch.tensor([5.0, 6.0]), 8, (30, 30)))
    assert torch.allclose(expected_counts(probe, here), expected_counts(probe, there))


def test_a_shifted_exit_wave_leaves_the_counts_alone():
    wave = waves(1, 1, 8, 8)
    assert torch.allclose(intensity(far_field(wave)), intensity(far_field(torch.roll(wave, (2, 3), (-2, -1)))))


def test_a_plane_wave_moves_the_pattern_by_its_frequency():
    wave = waves(1, 1, 8, 8)
    ramp = torch.exp(2j * torch.pi * 3 * torch.arange(8) / 8)
    moved = intensity(far_field(wave * ramp))
    assert torch.allclose(moved, torch.roll(intensity(far_field(wave)), 3, -1))


def test_doubled_photons_double_the_counts():
    probe, patches = waves(2, 8, 8), waves(3, 8, 8, seed=1)
    assert torch.allclose(expected_counts(probe * 2**0.5, patches), 2 * expected_counts(probe, patches))


def test_modes_add_as_intensities():
    probe, patches = waves(3, 8, 8), waves(2, 8, 8, seed=1)
    each = sum(expected_counts(probe[mode : mode + 1], patches) for mode in range(3))
    assert torch.allclose(expected_counts(probe, patches), each)


def test_each_frame_may_have_its_own_probe():
    probes, patches = waves(2, 1, 8, 8), waves(2, 8, 8, seed=1)
    assert torch.equal(illuminate(probes, patches)[1], illuminate(probes[1], patches)[1])


def test_the_forward_model_has_right_gradients():
    probe, patches = waves(2, 4, 4).requires_grad_(), waves(2, 4, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(expected_counts, (probe, patches))


def test_expected_counts_are_those_of_an_independent_numpy_model():
    scan = make_scan(n=9, N=16, noise=False, n_modes=2)
    truth = scan.truth
    corners = torch.from_numpy(truth.grid.corners_px(scan.positions_px, 16))
    patches = extract_patches(torch.from_numpy(truth.object), Windows.at(corners, 16, truth.grid.shape))
    counts = to_centred(expected_counts(torch.from_numpy(truth.probe), patches)).numpy()
    np.testing.assert_allclose(counts, scan.frames.counts, atol=1e-4 * scan.frames.counts.max())
