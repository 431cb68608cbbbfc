"""A part of a scan as a scan of its own, on the same object grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ptycho.data.frames import FramesView
from ptycho.data.scan import Scan


@dataclass(frozen=True)
class SubsetFrames(FramesView):
    """Some of the frames of a scan, still lazy: frame i is frame `chosen[i]` of the whole."""

    chosen: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(position, y, x)."""
        return len(self.chosen), self.frames.shape[1], self.frames.shape[2]

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Counts (len(indices), y, x); see `Frames.read`."""
        return self.frames.read(self.chosen[indices])


def subset(scan: Scan, chosen: NDArray[np.int64]) -> Scan:
    """The chosen frames and positions, on the whole scan's grid, so that images of parts can be compared."""
    return replace(
        scan,
        frames=SubsetFrames(scan.frames, chosen),
        positions_px=scan.positions_px[chosen],
        object_grid=scan.grid,
        object_start=None,
    )
