"""Propagation between sample and detector.

The convention of the whole package: orthonormal transforms, so energy is conserved. Files store patterns with zero
frequency at index N // 2 ("centred"); on the device patterns are kept in FFT order with zero frequency at [0, 0], so
that no step has to shift anything. Patterns are brought into that order once, when frames are loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho.data.geometry import Geometry
from ptycho.errors import DataError


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


@dataclass(frozen=True)
class Propagator:
    """From exit waves to detector waves and back: the far field, or the near field at a Fresnel distance.

    kernel: (y, x) complex64, FFT order, of modulus 1: the transfer function of free flight; None is the far field

    Detector waves, and patterns in the order that `to_device_order` gives, have zero frequency at [0, 0] in the far
    field; in the near field they lie as the sample does, with the axis at index N // 2. Unitary either way.
    """

    kernel: Tensor | None = None

    @classmethod
    def of(cls, geometry: Geometry, patch_size: int, device: torch.device | str = "cpu") -> Propagator:
        """The propagator of a measurement. Raises DataError when its near field lacks a length."""
        fresnel_px2 = geometry.fresnel_px2(patch_size)
        return cls() if fresnel_px2 is None else cls(flight(patch_size, fresnel_px2, device))

    def forward(self, waves: Tensor) -> Tensor:
        """Detector waves (..., y, x) of exit waves (..., y, x)."""
        return far_field(waves) if self.kernel is None else near_sample(far_field(waves) * self.kernel)

    def adjoint(self, waves: Tensor) -> Tensor:
        """Exit waves (..., y, x) of detector waves (..., y, x): inverse and adjoint of `forward`."""
        return near_sample(waves) if self.kernel is None else near_sample(far_field(waves) * self.kernel.conj())

    def to_device_order(self, pattern: Tensor) -> Tensor:
        """A pattern as files store it (..., y, x) in the order of detector waves."""
        return to_fft_order(pattern) if self.kernel is None else pattern

    def to_file_order(self, pattern: Tensor) -> Tensor:
        """A pattern in the order of detector waves (..., y, x) as files store it."""
        return to_centred(pattern) if self.kernel is None else pattern


def flight(size: int, distance_px2: float | tuple[float, float], device: torch.device | str = "cpu") -> Tensor:
    """Transfer function (size, size) complex64, FFT order, of free flight: exp(−iπ·λz·(f_y² + f_x²)).

    distance_px2: λz/dx² in square pixels, or that of (height, width). Fresnel's form of the angular spectrum (Goodman,
    Introduction to Fourier Optics, eq. 4-20), exact for X-rays; positive distances are downstream.
    """
    along_y, along_x = distance_px2 if isinstance(distance_px2, tuple) else (distance_px2, distance_px2)
    squares = torch.fft.fftfreq(size, dtype=torch.float64).square()
    phase = -math.pi * (along_y * squares[:, None] + along_x * squares[None, :])
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64).to(device)


def slice_flight(
    spacing_m: float | None, geometry: Geometry, patch_size: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Transfer function (y, x) complex64, FFT order, from one slice of a thick object to the next; 1 without a spacing.

    The angular spectrum, exp(2πi·z·(√(1/λ² − f²) − 1/λ)) (Goodman, Introduction to Fourier Optics, eq. 3-74), without
    the paraxial approximation; waves that do not travel are dropped. Raises DataError when the wavelength or the object
    pixel is unknown.
    """
    if spacing_m is None:
        return torch.ones(patch_size, patch_size, dtype=torch.complex64, device=device)
    pixel, wavelength = geometry.object_pixel(patch_size), geometry.wavelength_m
    if pixel is None or wavelength is None:
        raise DataError(
            "a thick object needs the wavelength and the object pixel: add energy_eV, distance_m and detector_pixel_m"
            " (or object_pixel_m) to the file or to [data]"
        )
    frequencies = torch.fft.fftfreq(patch_size, dtype=torch.float64)
    sines = (wavelength / pixel[0] * frequencies[:, None]).square() + (wavelength / pixel[1] * frequencies).square()
    cosines = (1 - sines).clamp(min=0).sqrt()
    # √(1 − s) − 1, written so that small angles keep their digits.
    phase = -2 * math.pi * spacing_m / wavelength * sines / (1 + cosines)
    return torch.polar((sines < 1).double(), phase).to(torch.complex64).to(device)


def fly(waves: Tensor, transfer: Tensor) -> Tensor:
    """Waves (..., y, x) after a flight with the transfer function (y, x) of `flight`."""
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(waves) * transfer)
    return result
