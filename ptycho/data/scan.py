"""A scan: one ptychographic measurement, its frames read only when asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.errors import DataError

if TYPE_CHECKING:
    from ptycho.data.detector_view import DetectorView


class Frames(Protocol):
    """Diffraction patterns in a file or in memory, read by index."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(position, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of the stored counts."""
        ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Counts (len(indices), y, x) in the order asked for, zero frequency at index N // 2.

        Raises DataError naming file and frames when they cannot be read, are negative or not finite.
        """
        ...


@dataclass(frozen=True)
class ArrayFrames:
    """Frames that are already in memory: (position, y, x) counts, zero frequency at index N // 2."""

    counts: NDArray[np.generic]

    @property
    def shape(self) -> tuple[int, int, int]:
        n, height, width = self.counts.shape
        return n, height, width

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.counts.dtype

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        return self.counts[indices]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a simulation knows: the object on its grid, the probe, the positions before jitter was forgotten.

    object:    (y, x), of a thick object the product of its slices
    slices:    (slice, y, x) of a thick object, the first met by the light first
    intensity: (position,) of each frame, mean 1, where it varied
    """

    object: NDArray[np.complex64]
    grid: ObjectGrid
    probe: NDArray[np.complex64] | None = None
    positions_px: NDArray[np.float64] | None = None
    slices: NDArray[np.complex64] | None = None
    intensity: NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One measurement.

    frames:       counts (position, y, x), square, zero frequency at index N // 2
    positions_px: (position, 2) float64, (y, x) window centres in object pixels; any origin
    probe:        (mode, y, x) complex64 or None when the file has none; any power
    mask:         (y, x) bool, True where the detector pixel is good; None means all good
    object_start: (y, x) complex64 first guess on `object_grid`, or None
    object_grid:  the file's own object grid, or None when the job may choose one
    detector:     how frames lie on the detector, or None when they are all of it as it is stored
    assumptions:  sentences: what the reader had to assume or convert, for people to check
    provenance:   JSON-like facts about where the data came from
    """

    name: str
    path: Path | None
    frames: Frames
    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64] | None = None
    mask: NDArray[np.bool_] | None = None
    geometry: Geometry = field(default_factory=Geometry)
    object_start: NDArray[np.complex64] | None = None
    object_grid: ObjectGrid | None = None
    truth: Truth | None = None
    detector: DetectorView | None = None
    assumptions: tuple[str, ...] = ()
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise DataError(f"{self.path or self.name}: " + "; ".join(problems))

    @property
    def n_positions(self) -> int:
        return self.frames.shape[0]

    @property
    def patch_size(self) -> int:
        """N: frames are N × N, and so are probe and object patches."""
        return self.frames.shape[-1]

    @property
    def grid(self) -> ObjectGrid:
        """The object grid: the file's own when it holds every window, else the smallest that does."""
        own = self.object_grid
        if own is not None and own.holds(self.positions_px, self.patch_size):
            return own
        return ObjectGrid.covering(self.positions_px, self.patch_size)

    def _problems(self) -> list[str]:
        n, height, width = self.frames.shape
        found = []
        if n == 0:
            found.append("the scan has no frames; at least 1 is needed")
        if height != width:
            found.append(f"frames are {height} × {width}; they must be square (crop or pad them)")
        if self.positions_px.shape != (n, 2):
            found.append(f"{n} frames but positions of shape {self.positions_px.shape}; one (y, x) per frame is needed")
        elif not np.isfinite(self.positions_px).all():
            bad = int(np.flatnonzero(~np.isfinite(self.positions_px).all(axis=1))[0])
            found.append(f"position {bad} is not a finite number; remove that frame or repair the file")
        if self.probe is not None:
            if self.probe.ndim != 3 or self.probe.shape[1:] != (height, width):
                found.append(f"probe of shape {self.probe.shape} does not fit frames of {height} × {width}")
            elif not np.isfinite(self.probe).all() or not np.abs(self.probe).any():
                found.append("the probe is all zero or has values that are not finite")
        if self.mask is not None and self.mask.shape != (height, width):
            found.append(f"mask of shape {self.mask.shape} does not fit frames of {height} × {width}")
        if self.object_start is not None:
            grid = None if self.object_grid is None else self.object_grid.shape
            if self.object_start.shape != grid:
                found.append(f"first guess of the object has shape {self.object_start.shape}, its grid {grid}")
        return found
