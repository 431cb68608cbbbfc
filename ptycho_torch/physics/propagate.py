"""Propagation between sample and detector.

The convention of the whole package: orthonormal transforms, so energy is conserved. Files store patterns with zero
frequency at index N // 2 ("centred"); on the device patterns are kept in FFT order with zero frequency at [0, 0], so
that no step has to shift anything. `to_fft_order` is applied once, when frames are loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor


def far_field(wave: Tensor) -> Tensor:
    """Wave at the detector, FFT order. wave: (..., y, x) complex; returns the same shape."""
    result: Tensor = torch.fft.fft2(wave, norm="ortho")
    return result


def near_sample(wave: Tensor) -> Tensor:
    """Wave at the sample from a detector wave in FFT order: inverse and adjoint of `far_field`."""
    result: Tensor = torch.fft.ifft2(wave, norm="ortho")
    return result


def to_fft_order(pattern: Tensor) -> Tensor:
    """A centred pattern (..., y, x) with its zero frequency moved to [0, 0]."""
    result: Tensor = torch.fft.ifftshift(pattern, dim=(-2, -1))
    return result


def to_centred(pattern: Tensor) -> Tensor:
    """A pattern in FFT order (..., y, x) with its zero frequency moved to index N // 2."""
    result: Tensor = torch.fft.fftshift(pattern, dim=(-2, -1))
    return result
