"""Fourier ring correlation: down to which detail two images of the same object agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

ONE_SEVENTH = 1 / 7


@dataclass(frozen=True, kw_only=True)
class RingCorrelation:
    """A Fourier ring correlation curve.

    frequency:   (ring,) cycles per pixel, above 0 and up to 0.5 (Nyquist)
    correlation: (ring,) real part of the normalised correlation, −1 to 1
    half_bit:    (ring,) half-bit threshold
    pixel_size_m: side of a pixel, or None when the scan does not know it
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    half_bit: NDArray[np.float64]
    pixel_size_m: float | None = None

    def resolution_px(self, criterion: str = "half-bit") -> float | None:
        """Half period, in pixels, of the finest detail resolved by "half-bit" or "1/7"; 1 px is the sampling limit.

        1.0 when the curve stays above the threshold up to Nyquist; None when it is below from the start.
        """
        threshold = {"half-bit": self.half_bit, "1/7": np.full_like(self.half_bit, ONE_SEVENTH)}[criterion]
        above = self.correlation - threshold
        below = np.flatnonzero(above < 0)
        if not len(below):
            return 1.0
        k = int(below[0])
        if k == 0:
            return None
        part = above[k - 1] / (above[k - 1] - above[k])
        crossing = self.frequency[k - 1] + part * (self.frequency[k] - self.frequency[k - 1])
        return float(0.5 / crossing)

    def resolution_m(self, criterion: str = "half-bit") -> float | None:
        """Half period in metres, or None when the pixel size is unknown or nothing is resolved."""
        resolution = self.resolution_px(criterion)
        return None if resolution is None or self.pixel_size_m is None else resolution * self.pixel_size_m


def ring_correlation(
    image: NDArray[np.complexfloating],
    other: NDArray[np.complexfloating],
    region: NDArray[np.bool_],
    *,
    pixel_size_m: float | None = None,
    edge_px: int = 8,
) -> RingCorrelation:
    """Fourier ring correlation of two aligned images (y, x) in a region with a soft edge.

    region:  (y, x) bool, the well-lit part of both images
    edge_px: width over which the mask falls to zero inside the region: a hard edge, which both images share, would
             correlate at every frequency

    Source: van Heel & Schatz, "Fourier shell correlation threshold criteria", J. Struct. Biol. 151, 250 (2005), for
    the half-bit curve; n is the number of independent Fourier pixels, reduced by the part of the frame that the mask
    fills. FRC alone hides slow errors of the phase; state the phase error beside it where the truth is known.
    """
    if image.shape != other.shape or image.shape != region.shape:
        raise ValueError(f"images {image.shape}, {other.shape} and region {region.shape} differ in shape")
    mask = soft_edge(region, edge_px)
    if not mask.any():
        raise ValueError(f"the region is too narrow for a soft edge of {edge_px} px on both sides")
    rows, columns = (slice(int(w.min()), int(w.max()) + 1) for w in np.nonzero(mask))
    mask = mask[rows, columns]
    side = fft.next_fast_len(max(mask.shape))
    a, b = (_spectrum(array[rows, columns], mask, side) for array in (image, other))
    frequency_y, frequency_x = fft.fftfreq(side), fft.fftfreq(side)
    radius = np.hypot(frequency_y[:, None], frequency_x[None, :]) * side
    # Rings as wide as the mask's own Fourier resolution: finer ones would repeat the same information.
    width = side / min(mask.shape)
    ring = np.rint(radius / width).astype(int)
    n_rings = int(0.5 * side / width)
    cross = _ring_sum((a * b.conj()).real, ring, n_rings)
    power = np.sqrt(_ring_sum(np.abs(a) ** 2, ring, n_rings) * _ring_sum(np.abs(b) ** 2, ring, n_rings))
    filled = float(mask.sum() ** 2 / (mask**2).sum()) / side**2
    n_independent = np.maximum(_ring_sum(np.ones_like(radius), ring, n_rings) * filled, 1)
    return RingCorrelation(
        frequency=np.arange(1, n_rings + 1) * width / side,
        correlation=np.where(power > 0, cross / np.where(power > 0, power, 1), 0),
        half_bit=half_bit_threshold(n_independent),
        pixel_size_m=pixel_size_m,
    )


def half_bit_threshold(n_independent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation at which each Fourier pixel carries half a bit: van Heel & Schatz (2005), equation 17."""
    root = np.sqrt(n_independent)
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def soft_edge(region: NDArray[np.bool_], edge_px: int) -> NDArray[np.float64]:
    """Mask (y, x) that rises from 0 outside the region to 1 at `edge_px` inside it, as a raised cosine."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    if edge_px <= 0:
        return region.astype(float)
    rising: NDArray[np.float64] = 0.5 - 0.5 * np.cos(np.pi * np.clip(depth / edge_px, 0, 1))
    return rising


def _spectrum(image: NDArray[np.complexfloating], mask: NDArray[np.float64], side: int) -> NDArray[np.complex128]:
    """Fourier transform of the masked image about its mean, zero-padded to a square."""
    mean = (image * mask).sum() / mask.sum()
    spectrum: NDArray[np.complex128] = fft.fft2((image - mean).astype(np.complex128) * mask, (side, side))
    return spectrum


def _ring_sum(values: NDArray[np.float64], ring: NDArray[np.int_], n_rings: int) -> NDArray[np.float64]:
    # The mean was taken out, so ring 0 holds rounding only.
    sums = np.bincount(ring.ravel(), values.ravel(), minlength=n_rings + 1)
    return np.asarray(sums[1 : n_rings + 1], np.float64)
