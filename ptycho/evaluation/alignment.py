"""Alignment: what ptychography cannot know is taken out of an image before it is compared with another.

A global complex factor, a linear phase ramp, a shift and, where asked, the twin (conjugate and turned by 180°) change
no diffraction pattern. The aligned image is c·exp(−i k·x)·f(x − s) with the c, k and s that make it closest to the
reference in the scored region: coarse values from correlations (Guizar-Sicairos, Thurman & Fienup, "Efficient subpixel
image registration algorithms", Opt. Lett. 33, 156 (2008)), then Gauss–Newton on the squared difference itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Complex = NDArray[np.complex128]
Region = NDArray[np.bool_]

# Fourier interpolation rings far into an image from every edge of the lit region; a quintic spline does not.
_SPLINE_ORDER: Final = 5
_UPSAMPLING = 20
_MAX_STEPS = 30


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """An aligned image and what was done to it.

    image:            (y, x) complex64 on the reference's pixels
    shift_px:         (y, x) by which the image was moved
    ramp_rad_per_px:  (y, x) slope of the phase ramp that was taken out
    factor:           complex number by which the image was multiplied (at the region's centre)
    is_twin:          whether the image was conjugated and turned by 180° first
    error:            ‖aligned − reference‖ / ‖reference‖ in the region
    """

    image: NDArray[np.complex64]
    shift_px: tuple[float, float]
    ramp_rad_per_px: tuple[float, float]
    factor: complex
    is_twin: bool
    error: float


def align(
    image: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    region: Region,
    *,
    max_shift_px: float = 20,
    try_twin: bool = False,
) -> Alignment:
    """The image made as close to the reference as its free factor, ramp and shift allow.

    image, reference: (y, x) complex, same shape
    region:           (y, x) bool, where they are compared
    max_shift_px:     largest shift (y and x) considered; 0 leaves the image in its place

    Raises ValueError for an empty region or shapes that differ.
    """
    _check(image, reference, region)
    found = _align(image.astype(np.complex128), reference.astype(np.complex128), region, max_shift_px)
    if not try_twin:
        return found
    twin = _turned(image.astype(np.complex128), region).conj()
    other = _align(twin, reference.astype(np.complex128), region, max_shift_px)
    return replace(other, is_twin=True) if other.error < found.error else found


def remove_ramp(image: NDArray[np.complexfloating], region: Region) -> Alignment:
    """The image with the plane wave that fits it best divided out: flat on the whole, mean phase 0. For display."""
    reference = np.ones(image.shape, np.complex128)
    _check(image, reference, region)
    found = _align(image.astype(np.complex128), reference, region, max_shift_px=0)
    # The fitted factor also scales the amplitude, which nobody asked to change. An image of zeros has none to undo.
    modulus = abs(found.factor) or 1.0
    return replace(found, image=(found.image / modulus).astype(np.complex64), factor=found.factor / modulus)


@dataclass(frozen=True)
class _Fit:
    """Parameters of the fit, and the model's value."""

    shift: NDArray[np.float64]
    ramp: NDArray[np.float64]
    factor: complex
    moved: Complex
    model: Complex
    error: float


def _align(image: Complex, reference: Complex, region: Region, max_shift_px: float) -> Alignment:
    rows, columns = _bounding_box(region, 0)
    centre = np.array([(rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2])
    y, x = (np.arange(n, dtype=float) for n in image.shape)
    y, x = y[:, None] - centre[0], x[None, :] - centre[1]
    coarse_ramp = _coarse_ramp(image, reference, region)
    flattened = image * np.exp(-1j * (coarse_ramp[0] * y + coarse_ramp[1] * x))
    shift = np.zeros(2)
    if max_shift_px > 0 and _has_detail(image, region) and _has_detail(reference, region):
        shift = _coarse_shift(flattened, reference, region, max_shift_px)
        # Here the reference moves: interpolation smooths the noise of what it moves, so that a noisy image would
        # seem to fit best half a pixel off.
        shift = -_polish(reference, flattened, region, -shift, max_shift_px, (y, x)).shift
    fit = _polish(_Shifter(flattened)(shift), reference, region, np.zeros(2), 0, (y, x))
    # exp(−i k0·x) was applied before the shift: at the end it is exp(−i k0·(x − s)), a constant phase apart.
    ramp = coarse_ramp + fit.ramp
    return Alignment(
        image=fit.model.astype(np.complex64),
        shift_px=(float(shift[0]), float(shift[1])),
        ramp_rad_per_px=(float(ramp[0]), float(ramp[1])),
        factor=complex(fit.factor * np.exp(1j * (coarse_ramp * shift).sum())),
        is_twin=False,
        error=float(fit.error),
    )


def _check(image: NDArray[np.complexfloating], reference: NDArray[np.complexfloating], region: Region) -> None:
    if image.shape != reference.shape or image.shape != region.shape:
        raise ValueError(f"image {image.shape}, reference {reference.shape} and region {region.shape} differ in shape")
    if not region.any():
        raise ValueError("the region to compare is empty; lower the illumination that a pixel needs to be in it")


def _bounding_box(region: Region, margin: int) -> tuple[slice, slice]:
    def span(lit: Region) -> slice:
        where = np.flatnonzero(lit)
        return slice(max(0, int(where[0]) - margin), min(len(lit), int(where[-1]) + 1 + margin))

    return span(np.asarray(region.any(axis=1))), span(np.asarray(region.any(axis=0)))


def _turned(image: Complex, region: Region) -> Complex:
    """The image turned by 180° about the centre of the region; what falls outside is 1."""
    rows, columns = _bounding_box(region, 0)
    turned = np.ones_like(image)
    y = rows.start + rows.stop - 1 - np.arange(image.shape[0])
    x = columns.start + columns.stop - 1 - np.arange(image.shape[1])
    ok_y, ok_x = (y >= 0) & (y < image.shape[0]), (x >= 0) & (x < image.shape[1])
    turned[np.ix_(ok_y, ok_x)] = image[np.ix_(y[ok_y], x[ok_x])]
    return turned


def _padded_size(box: tuple[slice, slice], factor: int = 2) -> tuple[int, int]:
    height, width = (fft.next_fast_len(factor * (s.stop - s.start)) for s in box)
    return height, width


def _coarse_ramp(image: Complex, reference: Complex, region: Region) -> NDArray[np.float64]:
    """Slope (y, x) in rad/px: a ramp moves the Fourier modulus, which does not see shifts."""
    box = _bounding_box(region, 0)
    size = _padded_size(box)
    ours, theirs = (np.abs(fft.fft2((array * region)[box], size)) for array in (image, reference))
    correlation = fft.ifft2(fft.fft2(ours) * fft.fft2(theirs).conj()).real
    peak = np.unravel_index(correlation.argmax(), size)
    return 2 * np.pi * np.array([fft.fftfreq(n)[k] for n, k in zip(size, peak, strict=True)])


def _detail(image: Complex, region: Region, box: tuple[slice, slice]) -> Complex:
    """The image in the box less its local mean, soft at the region's edge: constants and slow ramps are gone."""
    height, width = (s.stop - s.start for s in box)
    sigma = max(4.0, min(height, width) / 8)
    mask = region[box].astype(float)
    masked = image[box] * mask
    share = ndimage.gaussian_filter(mask, sigma)
    mean = ndimage.gaussian_filter(masked, sigma) / np.maximum(share, 1e-6)
    soft = mask * ndimage.gaussian_filter(ndimage.binary_erosion(mask, iterations=3).astype(float), 2)
    detail: Complex = (image[box] - mean) * soft
    return detail


def _coarse_shift(image: Complex, reference: Complex, region: Region, max_shift_px: float) -> NDArray[np.float64]:
    """Shift (y, x) from the peak of the cross-correlation, upsampled about the peak by a matrix Fourier transform."""
    box = _bounding_box(region, 0)
    size = _padded_size(box)
    ours, theirs = _detail(image, region, box), _detail(reference, region, box)
    product = fft.fft2(theirs, size) * fft.fft2(ours, size).conj()
    correlation = np.abs(fft.ifft2(product))
    lags = [fft.fftfreq(n, 1 / n) for n in size]
    allowed = (np.abs(lags[0]) <= max_shift_px)[:, None] & (np.abs(lags[1]) <= max_shift_px)[None, :]
    peak = np.unravel_index(np.where(allowed, correlation, -1).argmax(), size)
    whole = np.array([lag[k] for lag, k in zip(lags, peak, strict=True)])
    fine = np.arange(-_UPSAMPLING, _UPSAMPLING + 1) / _UPSAMPLING
    wave_y = np.exp(2j * np.pi * np.outer(whole[0] + fine, fft.fftfreq(size[0])))
    wave_x = np.exp(2j * np.pi * np.outer(fft.fftfreq(size[1]), whole[1] + fine))
    best = np.unravel_index(np.abs(wave_y @ product @ wave_x).argmax(), (len(fine), len(fine)))
    found: NDArray[np.float64] = whole + fine[np.array(best)]
    return found.clip(-max_shift_px, max_shift_px)


def _has_detail(image: Complex, region: Region) -> bool:
    """Whether the image is more than one plane wave in the region: one without detail fits wherever it lies."""
    for axis in (0, 1):
        ours, lit = np.moveaxis(image, axis, 0), np.moveaxis(region, axis, 0)
        turns = (ours[1:] * ours[:-1].conj())[lit[1:] & lit[:-1]]
        if turns.size and np.abs(turns - turns.mean()).max() > 1e-4 * np.abs(turns).max():
            return True
    return False


class _Shifter:
    """Shifts of one image by a spline whose coefficients are made once."""

    def __init__(self, image: Complex) -> None:
        self._image = image
        self._coefficients: Complex | None = None

    def __call__(self, shift: NDArray[np.float64]) -> Complex:
        if not shift.any():
            return self._image
        if self._coefficients is None:
            self._coefficients = ndimage.spline_filter(
                self._image, _SPLINE_ORDER, output=np.dtype(np.complex128), mode="mirror"
            )
        moved: Complex = ndimage.shift(self._coefficients, shift, order=_SPLINE_ORDER, mode="mirror", prefilter=False)
        return moved


def _polish(
    image: Complex,
    reference: Complex,
    region: Region,
    start: NDArray[np.float64],
    max_shift_px: float,
    coordinates: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> _Fit:
    """Gauss–Newton on Σ|c·exp(−i k·x)·f(x − s) − g|² over the region, in c, k and s."""
    y, x = coordinates
    shifted = _Shifter(image)
    target = reference[region]
    norm = np.linalg.norm(target)
    in_y, in_x = np.broadcast_to(y, region.shape)[region], np.broadcast_to(x, region.shape)[region]

    def fit(shift: NDArray[np.float64], ramp: NDArray[np.float64]) -> _Fit:
        """The best factor for this shift and ramp."""
        moved = shifted(shift) * np.exp(-1j * (ramp[0] * y + ramp[1] * x))
        ours = moved[region]
        power = np.vdot(ours, ours).real
        factor = complex(np.vdot(ours, target) / power) if power > 0 else 0j
        error = np.linalg.norm(factor * ours - target) / norm if norm > 0 else 0.0
        return _Fit(shift, ramp, factor, moved, factor * moved, float(error))

    best = fit(start, np.zeros(2))
    for _ in range(_MAX_STEPS):
        model = best.model[region]
        columns = [model, 1j * model, -1j * in_y * model, -1j * in_x * model]
        if max_shift_px > 0:
            columns += [-np.gradient(best.model, axis=axis)[region] for axis in (0, 1)]
        jacobian = np.stack(columns, axis=1)
        hessian = (jacobian.conj().T @ jacobian).real
        gradient = (jacobian.conj().T @ (target - model)).real
        scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-30))
        step = scale * np.linalg.lstsq(hessian * np.outer(scale, scale), gradient * scale, rcond=1e-10)[0]
        better = None
        for length in (1.0, 0.5, 0.25, 0.1):
            shift = best.shift + length * step[4:6] if max_shift_px > 0 else best.shift
            trial = fit(np.clip(shift, -max_shift_px, max_shift_px), best.ramp + length * step[2:4])
            if trial.error < best.error:
                better = trial
                break
        if better is None:
            break
        gain, best = best.error - better.error, better
        if gain < 1e-7 * best.error:
            break
    return best
