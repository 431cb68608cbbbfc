"""Views of diffraction frames: checked, cropped, made from amplitudes; all lazy, all by index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.data.scan import Frames, Scan
from ptycho.errors import DataError

# Streaming passes hold one block of about this size, whatever the size of the scan.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class FramesView:
    """Frames that are changed as they are read; what a view does not say of itself is as in the frames within."""

    frames: Frames

    @property
    def shape(self) -> tuple[int, int, int]:
        """(position, y, x)."""
        return self.frames.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of the counts that are read."""
        return self.frames.dtype

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Counts (len(indices), y, x); see `Frames.read`."""
        return self.frames.read(indices)


@dataclass(frozen=True)
class CheckedFrames(FramesView):
    """Frames whose counts are finite and not negative; bad pixels read as 0.

    source: the file's name, for messages
    mask:   (y, x) bool, True where the pixel is good, or None. Detectors mark dead pixels with -1 or the largest
            integer, so what a bad pixel holds is never looked at.
    """

    source: str
    mask: NDArray[np.bool_] | None = None

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        counts: NDArray[Any] = self.frames.read(indices)
        if self.mask is not None and not self.mask.all():
            counts = np.where(self.mask, counts, counts.dtype.type(0))
        self._refuse_impossible(counts, indices)
        return counts

    def _refuse_impossible(self, counts: NDArray[Any], indices: NDArray[np.int64]) -> None:
        if counts.dtype.kind == "u" or counts.size == 0:
            return
        # One pass decides the usual case; a NaN makes the comparison false and is found below.
        if counts.min() >= 0 and (counts.dtype.kind != "f" or np.isfinite(counts.max())):
            return
        bad = ~(np.isfinite(counts) & (counts >= 0))
        at, y, x = (int(axis[0]) for axis in np.nonzero(bad))
        kind = "negative" if np.isfinite(counts[at, y, x]) else "not finite"
        raise DataError(
            f"{self.source}: frame {int(indices[at])} has a count that is {kind} ({counts[at, y, x]} at pixel"
            f" ({y}, {x})); counts must be finite and at least 0. Mask that pixel or repair the file."
        )


@dataclass(frozen=True)
class CroppedFrames(FramesView):
    """The central `size` × `size` pixels of each frame; zero frequency stays at index size // 2."""

    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames.shape[0], self.size, self.size

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        rows, columns = (central(length, self.size) for length in self.frames.shape[1:])
        # A copy, so that the uncropped block is freed at once.
        return self.frames.read(indices)[:, rows, columns].copy()


@dataclass(frozen=True)
class WindowFrames(FramesView):
    """The size × size pixels around a detector pixel (y, x), which comes to index size // 2; 0 beyond the detector."""

    centre_px: tuple[int, int]
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames.shape[0], self.size, self.size

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        return window(self.frames.read(indices), self.centre_px, self.size)


@dataclass(frozen=True)
class CentredFrames(FramesView):
    """Frames stored with zero frequency at [0, 0], read with zero frequency at index N // 2."""

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        return np.fft.fftshift(self.frames.read(indices), axes=(1, 2))


@dataclass(frozen=True)
class SquaredFrames(FramesView):
    """Counts of frames that are stored as amplitudes: scale · amplitude².

    whole: the amplitudes are square roots of whole counts, so the rounding of the root is undone
    """

    scale: float = 1.0
    whole: bool = False

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        amplitude: NDArray[Any] = self.frames.read(indices)
        # A negative amplitude is a fault of the file; its square would hide it from the check of the counts.
        counts = np.where(amplitude < 0, -1, np.square(amplitude) * amplitude.dtype.type(self.scale))
        if self.whole:
            nearest = np.rint(counts)
            counts = np.where(np.abs(counts - nearest) < WHOLE_TOLERANCE, nearest, counts)
        return counts.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class DarkFrames(FramesView):
    """Counts without the detector's dark signal (y, x); what falls below 0 is 0.

    Whole counts stay whole where the dark signal is.
    """

    dark: NDArray[np.float32]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        is_whole = self.frames.dtype.kind in "iu" and bool((self.dark == np.rint(self.dark)).all())
        return self.frames.dtype if is_whole else np.dtype(np.float32)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        counts: NDArray[Any] = self.frames.read(indices)
        light = np.maximum(counts.astype(np.float64) - self.dark, 0)
        return np.asarray(light.astype(self.dtype))


@dataclass(frozen=True)
class ThresholdFrames(FramesView):
    """Counts of which those below `least` read as 0: the noise of a detector that does not count photons."""

    least: float

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        counts: NDArray[Any] = self.frames.read(indices)
        return np.asarray(np.where(counts < self.least, counts.dtype.type(0), counts))


@dataclass(frozen=True)
class BinnedFrames(FramesView):
    """Sums over factor × factor pixels; the bin with zero frequency is index N // 2 of the smaller frames.

    Whole counts are summed in 64 bits and kept in at least 32, so that no sum runs over.
    """

    factor: int

    @property
    def shape(self) -> tuple[int, int, int]:
        n, height, width = self.frames.shape
        return n, height // self.factor, width // self.factor

    @property
    def dtype(self) -> np.dtype[np.generic]:
        stored = self.frames.dtype
        if stored.kind not in "iu":
            return stored
        return np.dtype(np.uint32 if stored.itemsize < 4 else np.uint64)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        counts: NDArray[Any] = self.frames.read(indices)
        n, height, width = counts.shape[0], *self.shape[1:]
        parts = counts.reshape(n, height, self.factor, width, self.factor)
        return np.asarray(parts.sum(axis=(2, 4), dtype=self.dtype))


# Squaring a float32 root of a count below 4e5 misses the whole number by less than this.
WHOLE_TOLERANCE = 0.05


def window(images: NDArray[Any], centre_px: tuple[int, int], size: int) -> NDArray[Any]:
    """The part (..., size, size) of images (..., y, x) whose index size // 2 is the pixel `centre_px`; 0 outside."""
    result = np.zeros((*images.shape[:-2], size, size), dtype=images.dtype)
    parts = []
    for centre, length in zip(centre_px, images.shape[-2:], strict=True):
        start = centre - size // 2
        low, high = max(start, 0), min(start + size, length)
        if low >= high:
            return result
        parts.append((slice(low, high), slice(low - start, high - start)))
    (rows, to_rows), (columns, to_columns) = parts
    result[..., to_rows, to_columns] = images[..., rows, columns]
    return result


def central(length: int, size: int) -> slice:
    """The slice of `size` of `length` elements that moves index length // 2 to index size // 2."""
    start = length // 2 - size // 2
    return slice(start, start + size)


def blocks(frames: Frames) -> Iterator[NDArray[np.int64]]:
    """Consecutive indices, all frames in order, as many at a time as fit in BLOCK_BYTES."""
    n, height, width = frames.shape
    step = max(1, BLOCK_BYTES // max(1, height * width * frames.dtype.itemsize))
    for start in range(0, n, step):
        yield np.arange(start, min(start + step, n), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class FrameSummary:
    """What one pass over all frames finds.

    largest:      the largest count of any good pixel
    whole:        every count is a whole number
    mean_photons: mean over frames of the sum of counts
    n_empty:      frames without a single count
    """

    n_frames: int
    largest: float
    whole: bool
    mean_photons: float
    n_empty: int


def check_frames(scan: Scan) -> FrameSummary:
    """Read every frame once, block by block, and say what is there.

    Raises DataError naming the file and the first frame that cannot be read or is impossible.
    """
    largest, whole, total, n_empty = 0.0, True, 0.0, 0
    for indices in blocks(scan.frames):
        counts: NDArray[Any] = scan.frames.read(indices)
        sums = counts.sum(axis=(1, 2), dtype=np.float64)
        largest = max(largest, float(counts.max()))
        whole = whole and (counts.dtype.kind in "iub" or bool((counts == np.rint(counts)).all()))
        total += float(sums.sum())
        n_empty += int((sums == 0).sum())
    n = scan.n_positions
    return FrameSummary(n_frames=n, largest=largest, whole=whole, mean_photons=total / n, n_empty=n_empty)


def saturated_pixels(frames: Frames, limit: float) -> NDArray[np.bool_]:
    """Pixels (y, x) that reach `limit` counts in any frame; reads every frame once."""
    found = np.zeros(frames.shape[1:], dtype=bool)
    for indices in blocks(frames):
        counts: NDArray[Any] = frames.read(indices)
        found |= (counts >= limit).any(axis=0)
    return found


def sample_indices(n: int, count: int = 16) -> NDArray[np.int64]:
    """At most `count` frame indices spread evenly over the scan, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64))
