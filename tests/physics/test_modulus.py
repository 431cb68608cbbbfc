"""The modulus projection."""

import pytest
import torch

from ptycho_torch.physics.forward import intensity
from ptycho_torch.physics.modulus import modulus_change
from ptycho_torch.physics.propagate import far_field


def random_waves(n_modes, dtype=torch.complex128):
    return torch.randn(3, n_modes, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))


def amplitudes(seed=1, dtype=torch.float64):
    return torch.rand(3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("n_modes", [1, 3])
def test_changed_waves_explain_the_amplitude(n_modes):
    waves, amplitude = random_waves(n_modes), amplitudes()
    change, missed = modulus_change(waves.clone(), amplitude, None, 1e-6)
    assert torch.allclose(intensity(far_field(waves + change)).sqrt(), amplitude, atol=1e-8)
    assert missed == pytest.approx(float((intensity(far_field(waves)).sqrt() - amplitude).abs().sum()))


def test_waves_that_explain_the_amplitude_are_left_alone():
    waves = random_waves(2)
    change, missed = modulus_change(waves.clone(), intensity(far_field(waves)).sqrt(), None, 1.0)
    assert float(change.abs().max()) < 1e-12
    assert float(missed) < 1e-10


def test_masked_pixels_keep_their_waves_whatever_was_measured_there():
    waves, good = random_waves(1), torch.ones(8, 8, dtype=torch.float64)
    good[2, 3] = good[0, 0] = 0
    change, missed = modulus_change(waves.clone(), amplitudes() * good, good, 1.0)
    other, other_missed = modulus_change(waves.clone(), amplitudes() * good + 1e3 * (1 - good), good, 1.0)
    assert torch.equal(change, other)
    assert missed == other_missed
    assert float(far_field(change)[:, 0, 2, 3].abs().max()) < 1e-12


def test_dark_frames_and_dark_waves_stay_finite():
    dark = torch.zeros(3, 1, 8, 8, dtype=torch.complex64)
    change, _ = modulus_change(dark.clone(), amplitudes(dtype=torch.float32), None, 1.0)
    assert torch.isfinite(torch.view_as_real(change)).all()
    waves = random_waves(1, torch.complex64)
    change, _ = modulus_change(waves.clone(), torch.zeros(3, 8, 8), None, 1.0)
    assert torch.allclose(change, -waves, atol=1e-5)
