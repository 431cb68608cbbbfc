"""The modulus projection: waves changed as little as possible so that they explain the measured amplitude."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Part of the mean amplitude added below the fraction line; keeps dark pixels finite and changes no other.
_FLOOR = 1e-6
# Expected counts that a pixel is not taken to have less of where it is divided by them.
_LEAST_COUNTS = 1e-3


@dataclass
class Background:
    """Counts that are no part of any wave, and what frames say about them; all (y, x), in the amplitudes' order.

    counts:      b
    score:       Σ_j(k/μ − 1) over the frames seen, with μ = λ + b: derivative of the Poisson log-likelihood
    information: Σ_j 1/μ: its expected curvature
    """

    counts: Tensor
    score: Tensor
    information: Tensor

    @classmethod
    def nothing(cls, shape: torch.Size, device: torch.device) -> Background:
        """No background, and nothing seen."""
        return cls(*(torch.zeros(shape, device=device) for _ in range(3)))

    def unseen(self) -> Background:
        """The same counts, with sums of its own."""
        return Background(self.counts, torch.zeros_like(self.score), torch.zeros_like(self.information))

    def clear(self) -> None:
        """Forget the frames seen."""
        self.score.zero_()
        self.information.zero_()

    def join(self, modulus: Tensor, amplitude: Tensor, size: int) -> Tensor:
        """√μ·size of frames whose waves have the modulus √λ·size (position, y, x), whose memory is reused."""
        expected = modulus.square_().div_(size * size).add_(self.counts)
        self.see(expected, amplitude)
        return expected.sqrt_().mul_(size)

    def see(self, expected: Tensor, amplitude: Tensor) -> None:
        """Add what frames say: their expected counts μ and measured √counts, (position, y, x) both."""
        inverse = 1 / expected.clamp(min=_LEAST_COUNTS)
        self.score += (amplitude.square() * inverse - 1).sum(0)
        self.information += inverse.sum(0)


def modulus_change(
    waves: Tensor,
    amplitude: Tensor,
    good: Tensor | None,
    scale: float | Tensor,
    *,
    kernel: Tensor | None = None,
    background: Background | None = None,
) -> tuple[Tensor, Tensor]:
    """What the modulus projection adds to exit waves, and the R-factor's numerator of the waves as given.

    F⁻¹[(√k/√λ − 1)·Fψ] with λ = Σ_m |Fψ_m|² + b; masked pixels keep their waves (Thibault & Menzel 2013).

    waves:     (position, mode, y, x) complex exit waves; the memory is reused
    amplitude: (position, y, x) √counts, FFT order, zero where masked
    good:      (y, x) 1 where a pixel counts and 0 where it does not, or None
    scale:     a typical amplitude, for the floor under dark pixels; a tensor (position, 1, 1) gives each its own
    kernel:    (y, x) transfer function of the near field (`Propagator.kernel`); None is the far field
    background: counts b that are no part of any wave, or None; its sums are added to
    returns:   (position, mode, y, x) complex, and the scalar Σ|√k − √λ| over good pixels, float32
    """
    size = waves.shape[-1]
    # Unscaled transforms: orthonormal scaling costs two more passes, here it rides on factors needed anyway.
    far = torch.fft.fft2(waves)
    if kernel is not None:
        # The near field: back in real space, brought to the scale of the unscaled far field.
        far = torch.fft.ifft2(far * (kernel * size))
    modulus = _modulus(far)
    if background is not None:
        modulus = background.join(modulus, amplitude, size)
    shortfall = torch.sub(amplitude, modulus, alpha=1 / size)
    if good is not None:
        shortfall *= good
    missed = shortfall.abs().sum()
    shortfall /= modulus.mul_(size).add_(_FLOOR * scale * size * size)
    far *= shortfall.unsqueeze(1)
    if kernel is not None:
        far = torch.fft.fft2(far) * (kernel.conj() / size)
    return torch.fft.ifft2(far, norm="forward"), missed


def _modulus(far: Tensor) -> Tensor:
    """√Σ_m|z_m|², (position, y, x). Squaring real parts is ten times faster than torch's complex abs."""
    squares = torch.view_as_real(far).square()
    total = squares[:, 0] if far.shape[1] == 1 else squares.sum(1)
    return (total[..., 0] + total[..., 1]).sqrt_()
