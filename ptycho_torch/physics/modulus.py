"""The modulus projection: waves changed as little as possible so that they explain the measured amplitude."""

from __future__ import annotations

import torch
from torch import Tensor

# Part of the mean amplitude added below the fraction line; keeps dark pixels finite and changes no other.
_FLOOR = 1e-6


def modulus_change(
    waves: Tensor, amplitude: Tensor, good: Tensor | None, scale: float | Tensor
) -> tuple[Tensor, Tensor]:
    """What the modulus projection adds to exit waves, and the R-factor's numerator of the waves as given.

    F⁻¹[(√k/√λ − 1)·Fψ] with λ = Σ_m |Fψ_m|²; masked pixels keep their waves (Thibault & Menzel 2013).

    waves:     (position, mode, y, x) complex exit waves; the memory is reused
    amplitude: (position, y, x) √counts, FFT order, zero where masked
    good:      (y, x) 1 where a pixel counts and 0 where it does not, or None
    scale:     a typical amplitude, for the floor under dark pixels; a tensor (position, 1, 1) gives each its own
    returns:   (position, mode, y, x) complex, and the scalar Σ|√k − √λ| over good pixels, float32
    """
    size = waves.shape[-1]
    # Unscaled transforms: orthonormal scaling costs two more passes, here it rides on factors needed anyway.
    far = torch.fft.fft2(waves)
    modulus = _modulus(far)
    shortfall = torch.sub(amplitude, modulus, alpha=1 / size)
    if good is not None:
        shortfall *= good
    missed = shortfall.abs().sum()
    shortfall /= modulus.mul_(size).add_(_FLOOR * scale * size * size)
    far *= shortfall.unsqueeze(1)
    return torch.fft.ifft2(far, norm="forward"), missed


def _modulus(far: Tensor) -> Tensor:
    """√Σ_m|z_m|², (position, y, x). Squaring real parts is ten times faster than torch's complex abs."""
    squares = torch.view_as_real(far).square()
    total = squares[:, 0] if far.shape[1] == 1 else squares.sum(1)
    return (total[..., 0] + total[..., 1]).sqrt_()
