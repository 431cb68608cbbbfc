"""A scan as older programs hold it: named arrays. A thin door to `ptycho.data`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho.data.formats import open_scan
from ptycho.data.frames import CheckedFrames
from ptycho.data.grid import ObjectGrid
from ptycho.data.groups import nearest_groups
from ptycho.data.scan import ArrayFrames, Frames, Scan
from ptycho.errors import DataError

# Where batch work of ptychodus has the frames; product.h5 lies beside it.
STAGED_FRAMES = "diffraction.h5"


class RawData:
    """Arrays of one scan; `scan` is the same for our own code.

    xcoords, ycoords: (position,) object pixels, of the window's index N // 2, from the object's first pixel
    diff3d:           (position, y, x) counts; an array is made only when values are asked for
    probeGuess:       (mode, y, x); objectGuess: (y, x) or None; scan_index: (position,)
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.diff3d = LazyCounts(scan.frames)
        self.ycoords, self.xcoords = (np.ascontiguousarray(axis) for axis in scan.positions_px.T)
        self.ycoords_start, self.xcoords_start = self.ycoords, self.xcoords
        self.probeGuess, self.objectGuess = scan.probe, scan.object_start
        self.scan_index = np.zeros(scan.n_positions, np.int64)

    @classmethod
    def from_file(cls, path: str | Path) -> RawData:
        """The scan in a file of any known format; or, where it is missing, in diffraction.h5 and product.h5 beside it.

        Raises DataError.
        """
        path = Path(path)
        staged = path.with_name(STAGED_FRAMES)
        return cls(_on_own_pixels(open_scan(staged if staged.is_file() and not path.exists() else path)))

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        diff3d: NDArray[Any],
        probeGuess: NDArray[Any],
        scan_index: ArrayLike,
        objectGuess: NDArray[Any] | None = None,
    ) -> RawData:
        """The scan in a client's arrays; counts stay where they are, of any type and memory order.

        xcoords, ycoords: (position,) object pixels as ptychodus counts them: of the window's middle, index (N − 1) / 2
        diff3d:           (position, y, x) counts, zero frequency at index N // 2
        probeGuess:       (y, x) or (mode, y, x)
        scan_index:       (position,) which object each pattern is of; they must all be of one
        objectGuess:      (y, x); the reconstruction has its shape
        Raises DataError when the arrays do not fit each other.
        """
        if len(np.unique(np.asarray(scan_index))) > 1:
            raise DataError("scan_index names several objects; give the patterns of one object at a time.")
        positions = np.stack([np.asarray(ycoords, np.float64), np.asarray(xcoords, np.float64)], axis=1)
        return cls(client_scan(diff3d, probeGuess, positions, objectGuess))

    def generate_grouped_data(self, N: int, K: int = 4, nsamples: int = 1, gridsize: int = 1) -> GroupedData:
        """Every pattern with its nearest neighbours, gridsize × gridsize in all.

        K, nsamples: without effect (see docs/clients.md): groups are nearest neighbours, one around every pattern
        Raises DataError when patterns are not N × N, ValueError when there are too few.
        """
        if self.scan.patch_size != N:
            raise DataError(f"N = {N}, but the patterns are {self.scan.patch_size} pixels wide; they must be equal.")
        n_frames = gridsize**2
        return GroupedData(self.scan, nearest_groups(self.scan.positions_px, n_frames, max(1, n_frames - 1)))


@dataclass(frozen=True)
class GroupedData:
    """A scan and groups (group, frame) of its patterns, centre first."""

    scan: Scan
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class LazyCounts:
    """Counts (position, y, x) that are read when they are asked for."""

    frames: Frames

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.frames.dtype

    @property
    def ndim(self) -> int:
        return 3

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = np.arange(len(self))[first]
        counts = self.frames.read(np.atleast_1d(rows))
        return counts[(slice(None), *rest)] if np.ndim(rows) else counts[0][tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.frames.read(np.arange(len(self))), dtype=dtype)


def _on_own_pixels(scan: Scan) -> Scan:
    """The scan with positions counted from the first pixel of its own object, where it has one."""
    grid = scan.object_grid
    if grid is None or scan.truth is not None or grid.origin_px == (0, 0):
        return scan
    return replace(scan, positions_px=scan.positions_px - grid.origin_px, object_grid=ObjectGrid(shape=grid.shape))


def client_scan(
    counts: NDArray[Any],
    probe: NDArray[Any],
    positions_px: NDArray[np.float64],
    object_start: NDArray[Any] | None = None,
) -> Scan:
    """A scan from the arrays of ptychodus; see `RawData.from_coords_without_pc`.

    positions_px: (position, 2), (y, x) of the window's middle, index (N − 1) / 2. Raises DataError.
    """
    if counts.ndim != 3 or counts.dtype.kind not in "iuf":
        raise DataError(
            f"patterns of shape {counts.shape} and type {counts.dtype}; they must be real, (position, y, x)."
        )
    size = counts.shape[-1]
    start = None if object_start is None else np.asarray(object_start, np.complex64)
    return Scan(
        name="scan",
        path=None,
        frames=CheckedFrames(ArrayFrames(counts), "patterns"),
        positions_px=positions_px + (size // 2 - (size - 1) / 2),
        probe=np.asarray(probe, np.complex64).reshape(-1, *probe.shape[-2:]),
        object_start=start,
        object_grid=None if start is None else ObjectGrid(shape=(start.shape[0], start.shape[1])),
    )
