"""The frames that one rank works on, read once and held in memory in the smallest type that is exact."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.scan import Frames
from ptycho_torch.physics.propagate import to_fft_order

_READ_AT_ONCE = 256
_COUNT_TYPES = (np.uint8, np.uint16, np.uint32)


class FrameCache:
    """Counts of some frames of a scan, FFT order, looked up by scan index."""

    def __init__(self, frames: Frames, indices: NDArray[np.int64], mask: NDArray[np.bool_] | None) -> None:
        """Reads the frames of these scan indices, in pieces; masked pixels (mask centred, True good) become 0."""
        self.indices = np.unique(indices)
        read = np.empty((len(self.indices), *frames.shape[1:]), np.float32)
        for start in range(0, len(self.indices), _READ_AT_ONCE):
            part = slice(start, start + _READ_AT_ONCE)
            counts = np.asarray(frames.read(self.indices[part]), np.float32)
            if mask is not None:
                counts = np.where(mask, counts, np.float32(0))
            read[part] = to_fft_order(torch.from_numpy(counts)).numpy()
        self._counts = _compact(read)

    @property
    def n_bytes(self) -> int:
        """Memory that the frames hold."""
        return self._counts.nbytes

    def counts(self, indices: NDArray[np.int64]) -> Tensor:
        """Counts (..., y, x) float32, FFT order, of scan indices of any shape, which must have been read."""
        places = np.searchsorted(self.indices, indices)
        return torch.from_numpy(self._counts[places].astype(np.float32))

    def total_photons(self, indices: NDArray[np.int64]) -> float:
        """Photons summed over frames (frame,), in double precision."""
        places = np.searchsorted(self.indices, indices)
        return float(sum(self._counts[place].sum(dtype=np.float64) for place in places))


def _compact(counts: NDArray[np.float32]) -> NDArray[np.generic]:
    """The same numbers as unsigned integers of the smallest type that holds them, where they are whole."""
    largest = counts.max(initial=0)
    # float32 holds whole numbers exactly up to 2**24.
    if largest >= 2**24 or not all((frame == np.floor(frame)).all() for frame in counts):
        return counts
    return counts.astype(next(kind for kind in _COUNT_TYPES if largest <= np.iinfo(kind).max))
