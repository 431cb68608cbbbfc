"""What frames tell about their detector: where zero frequency lies, which pixels are dead, what was stored."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.frames import CentredFrames, SquaredFrames, sample_indices
from ptycho.data.scan import Frames
from ptycho.errors import DataError

SAMPLE = 32
SAMPLE_BYTES = 256 * 2**20
# An amplitude of 1000 would be a million photons in one pixel of one frame; counts of 1000 are common.
SURELY_COUNTS = 1000.0
# Largest count whose float32 square root still squares back to a recognisable whole number.
RECOGNISABLE_COUNT = 4e5
# Neighbours that saw this many counts make a pixel that saw none impossible: exp(-30) is 1e-13.
BRIGHT_COUNTS = 30.0


def sample_frames(frames: Frames) -> NDArray[np.float64]:
    """At most 32 frames spread over the scan, fewer large ones, (sample, y, x), values that are not finite as 0."""
    n, height, width = frames.shape
    if n == 0:
        raise DataError("the scan has no frames; at least 1 is needed")
    count = max(1, min(SAMPLE, SAMPLE_BYTES // max(1, height * width * 8)))
    sample = np.asarray(frames.read(sample_indices(n, count)), dtype=np.float64)
    return np.where(np.isfinite(sample), sample, 0.0)


def light_lies(pattern: NDArray[np.float64]) -> Literal["centre", "corner"] | None:
    """Where a mean pattern (y, x) is bright: the middle half of both axes, the four corners, or not clear (None)."""
    middle, corners = (_middle_sum(p) for p in (pattern, np.fft.fftshift(pattern)))
    if middle > 4 * corners:
        return "centre"
    return "corner" if corners > 4 * middle else None


def centre_frames(
    frames: Frames, source: str, usual: Literal["centre", "corner"], overrides: ReadOverrides
) -> tuple[Frames, str]:
    """The frames with zero frequency at index N // 2, with the sentence that says where the file has it.

    usual: where files of this format keep it. Raises DataError when the light lies elsewhere and nobody said so.
    """
    place = overrides.zero_frequency or usual
    seen = light_lies(sample_frames(frames).mean(axis=0))
    if overrides.zero_frequency is None and seen is not None and seen != usual:
        raise DataError(
            f"{source}: the light lies in the {seen} of the frames, but this format keeps zero frequency at the"
            f' {usual}; say which is right with zero_frequency = "centre" or "corner".'
        )
    why = "as stated" if overrides.zero_frequency else "as in every file of this format"
    if place == "corner":
        return CentredFrames(frames), f"Zero frequency lies at [0, 0] of the stored frames, {why}; moved to N // 2."
    return frames, f"Zero frequency lies at index N // 2 of the stored frames, {why}."


def dead_pixels(frames: Frames) -> NDArray[np.bool_]:
    """Pixels (y, x) that are zero in all of at most 32 frames although their neighbours together are bright."""
    total = sample_frames(frames).sum(axis=0)
    padded = np.pad(total, 1, mode="reflect")
    shifts = [(y, x) for y in (0, 1, 2) for x in (0, 1, 2) if (y, x) != (1, 1)]
    height, width = total.shape
    neighbours = np.stack([padded[y : y + height, x : x + width] for y, x in shifts])
    return np.asarray((total == 0) & (np.median(neighbours, axis=0) >= BRIGHT_COUNTS))


def as_counts(frames: Frames, source: str, overrides: ReadOverrides, photons: float | None) -> tuple[Frames, str]:
    """Frames of counts, with the sentence that says what was stored and how that was known.

    photons: mean counts of one frame where the file records them

    Whole-number types are counts. For the rest a statement decides, then the recorded photons, then the magnitude.
    Raises DataError when that leaves it open: taking amplitudes for counts gives a plausible, wrong image.
    """
    photons = overrides.photons_per_frame or photons
    stated = overrides.diffraction
    if stated != "amplitude" and frames.dtype.kind in "iu":
        return frames, f"Frames are counts: they are stored as {frames.dtype}."
    if stated == "counts":
        return frames, "Frames are counts, as stated."
    sample = sample_frames(frames)
    if stated is None and _whole(sample):
        return frames, f"Frames are counts: the values are whole numbers, stored as {frames.dtype}."
    squares = np.square(sample)
    if squares.max() < RECOGNISABLE_COUNT and _whole(squares):
        return SquaredFrames(frames, whole=True), "Frames were amplitudes: their squares are whole numbers. Squared."
    sum_of_squares = float(squares.sum(axis=(1, 2)).mean())
    if photons is not None:
        return _by_photons(frames, photons, float(sample.sum(axis=(1, 2)).mean()), sum_of_squares, stated is not None)
    if stated == "amplitude":
        return SquaredFrames(frames), f"Frames are amplitudes, as stated; their squares sum to {sum_of_squares:.4g}."
    if sample.max() >= SURELY_COUNTS:
        return frames, f"Frames are taken as counts: values reach {sample.max():.4g}, too large for amplitudes."
    raise DataError(
        f"{source}: the frames hold fractions up to {sample.max():.4g}, which may be counts or amplitudes, and no"
        ' photon number is recorded; state diffraction = "counts" or "amplitude" and, for normalised amplitudes,'
        " photons_per_frame."
    )


def _by_photons(
    frames: Frames, photons: float, plain_sum: float, sum_of_squares: float, is_amplitude: bool
) -> tuple[Frames, str]:
    if _near(sum_of_squares, photons):
        return SquaredFrames(
            frames
        ), f"Frames were amplitudes: their squares sum to the {photons:.4g} photons recorded."
    if _near(plain_sum, photons) and not is_amplitude:
        return frames, f"Frames are counts: they sum to the {photons:.4g} photons recorded."
    if sum_of_squares == 0:
        raise DataError("All sampled frames are empty, so normalised amplitudes cannot be scaled to photons.")
    scale = photons / sum_of_squares
    return SquaredFrames(frames, scale), (
        f"Frames were normalised amplitudes (squares sum to {sum_of_squares:.4g}); squared and multiplied by"
        f" {scale:.6g} so that a frame has {photons:.4g} photons on average (mean over at most {SAMPLE} frames)."
    )


def _near(value: float, expected: float) -> bool:
    return expected / 1.5 < value < expected * 1.5


def _whole(values: NDArray[Any]) -> bool:
    """Whether all values are whole numbers, up to the rounding of a float32 square root, and not just all tiny."""
    if values.any() and values.max() < 0.5:
        return False
    tolerance = 1e-6 + 4e-7 * np.abs(values)
    return bool((np.abs(values - np.rint(values)) <= tolerance).all())


def _middle_sum(pattern: NDArray[np.float64]) -> float:
    height, width = pattern.shape
    return float(pattern[height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None].sum())
