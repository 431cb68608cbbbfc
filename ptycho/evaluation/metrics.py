"""Numbers that say how far an image is from the truth, and the region in which they are counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ptycho.data.grid import ObjectGrid

# A pixel counts when it saw at least this part of the typical light: less leaves noise, not image.
LIT_FRACTION = 0.1

# Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment", IEEE Trans. Image Process. 13, 600 (2004).
_SSIM_SIGMA_PX, _SSIM_K1, _SSIM_K2 = 1.5, 0.01, 0.03


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Errors of an aligned image in the region scored.

    phase_rmse_rad:     root mean square of the phase difference
    amplitude_psnr_db:  20·log10(the truth's largest amplitude / RMS difference of the amplitudes)
    contrast_psnr_db:   20·log10(amplitude_range / RMS difference): stricter where the object absorbs little
    amplitude_ssim, phase_ssim: structural similarity, 1 for equal images; the phase's in radians
    complex_error:      ‖image − truth‖ / ‖truth‖
    amplitude_range, phase_range_rad: largest less smallest value of the truth in the region: SSIM refers to it
    """

    phase_rmse_rad: float
    amplitude_psnr_db: float
    contrast_psnr_db: float
    amplitude_ssim: float
    phase_ssim: float
    complex_error: float
    amplitude_range: float
    phase_range_rad: float
    n_pixels: int


def score(
    aligned: NDArray[np.complexfloating], truth: NDArray[np.complexfloating], region: NDArray[np.bool_]
) -> Scores:
    """Scores of an image (y, x) that `align` has brought onto the truth (y, x), counted where region is True."""
    amplitude, true_amplitude = np.abs(aligned).astype(float), np.abs(truth).astype(float)
    difference = phase_difference(aligned, truth)
    true_phase = smooth_phase(truth, region)
    amplitude_range, phase_range = float(np.ptp(true_amplitude[region])), float(np.ptp(true_phase[region]))
    amplitude_rms = _rms((amplitude - true_amplitude)[region])
    return Scores(
        phase_rmse_rad=_rms(difference[region]),
        amplitude_psnr_db=_psnr(amplitude_rms, float(true_amplitude[region].max())),
        contrast_psnr_db=_psnr(amplitude_rms, amplitude_range),
        amplitude_ssim=ssim(amplitude, true_amplitude, region, amplitude_range),
        phase_ssim=ssim(true_phase + difference, true_phase, region, phase_range),
        complex_error=complex_error(aligned, truth, region),
        amplitude_range=amplitude_range,
        phase_range_rad=phase_range,
        n_pixels=int(region.sum()),
    )


def phase_difference(image: NDArray[np.complexfloating], reference: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """Phase of the image less that of the reference, (−π, π] rad: no wrap of either appears in it."""
    return np.angle(image.astype(np.complex128) * np.conj(reference.astype(np.complex128)))


def smooth_phase(image: NDArray[np.complexfloating], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Phase (y, x) in rad about the region's mean direction, so that weak phases do not wrap."""
    mean = image[region].sum(dtype=np.complex128)
    turn = np.conj(mean) / abs(mean) if abs(mean) > 0 else 1.0
    return np.angle(image.astype(np.complex128) * turn) - np.angle(turn)


def complex_error(
    image: NDArray[np.complexfloating], truth: NDArray[np.complexfloating], region: NDArray[np.bool_]
) -> float:
    """‖image − truth‖ / ‖truth‖ over the region."""
    return float(np.linalg.norm((image - truth)[region]) / np.linalg.norm(truth[region]))


def ssim(
    image: NDArray[np.float64], truth: NDArray[np.float64], region: NDArray[np.bool_], value_range: float
) -> float:
    """Mean structural similarity over the region of two real images (y, x).

    value_range: range of the truth. Values are counted from the truth's least value in the region, so that the result
    depends neither on the origin of the phase nor on a pedestal; the Gaussian window (σ = 1.5 px) sees pixels of the
    region only.
    """
    mask = region.astype(float)
    share = np.maximum(ndimage.gaussian_filter(mask, _SSIM_SIGMA_PX), 1e-12)

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = ndimage.gaussian_filter(np.where(region, values, 0), _SSIM_SIGMA_PX) / share
        return mean

    origin = float(truth[region].min())
    a, b = image - origin, truth - origin
    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a, variance_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (_SSIM_K1 * value_range) ** 2, (_SSIM_K2 * value_range) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    denominator = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    equal = denominator == 0  # two constant images of the same value
    quotient = np.where(equal, 1.0, numerator / np.where(equal, 1.0, denominator))
    return float(quotient[region].mean())


def r_factor(difference_sum: float, amplitude_sum: float) -> float:
    """R = Σ|√k − √λ| / Σ√k from the two sums, made over the frames and ranks that are judged."""
    if not amplitude_sum > 0:
        raise ValueError(f"the measured amplitudes sum to {amplitude_sum}; frames without light have no R-factor")
    return difference_sum / amplitude_sum


def illumination(
    positions_px: NDArray[np.float64], probe: NDArray[np.complexfloating], grid: ObjectGrid
) -> NDArray[np.float64]:
    """Light that each object pixel saw, (y, x): the sum over positions of Σ_m|P_m|², at whole pixels.

    positions_px: (position, 2) window centres (y, x); probe: (mode, y, x) or (y, x)
    """
    intensity = (np.abs(probe.astype(np.complex128)) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0)
    height, width = (g + p - 1 for g, p in zip(grid.shape, intensity.shape, strict=True))
    size = fft.next_fast_len(height, real=True), fft.next_fast_len(width, real=True)
    corners = np.rint(grid.corners_px(positions_px, probe.shape[-1])).astype(int)
    if (corners < 0).any() or (corners + intensity.shape > grid.shape).any():
        raise ValueError(f"windows of size {probe.shape[-1]} leave the grid of shape {grid.shape}")
    flat = np.bincount(corners[:, 0] * size[1] + corners[:, 1], minlength=size[0] * size[1])
    spectrum = fft.rfft2(flat.reshape(size).astype(float)) * fft.rfft2(intensity, size)
    light: NDArray[np.float64] = fft.irfft2(spectrum, size)[: grid.shape[0], : grid.shape[1]]
    return np.maximum(light, 0)


def well_lit(light: NDArray[np.floating], fraction: float = LIT_FRACTION) -> NDArray[np.bool_]:
    """Pixels (y, x) that saw at least a fraction of the typical light Σ I²/Σ I, the mean over where the light falls.

    light: (y, x) illumination, or the coverage of a canvas weighted by the probe's intensity
    """
    total = float(light.sum(dtype=np.float64))
    if total <= 0:
        return np.zeros(light.shape, bool)
    typical = float((light.astype(np.float64) ** 2).sum()) / total
    return np.asarray(light >= fraction * typical)


def scanned_region(
    positions_px: NDArray[np.float64],
    probe: NDArray[np.complexfloating],
    grid: ObjectGrid,
    fraction: float = LIT_FRACTION,
) -> NDArray[np.bool_]:
    """The well-lit region (y, x) bool of a scan on a grid, in which images are scored."""
    return well_lit(illumination(positions_px, probe, grid), fraction)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _psnr(rms_error: float, value_range: float) -> float:
    if value_range == 0:
        return float("nan")  # a truth without contrast has no scale to measure an error by
    return float("inf") if rms_error == 0 else float(20 * np.log10(value_range / rms_error))
