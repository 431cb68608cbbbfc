"""Frames in an HDF5 dataset, read by index; safe after fork and pickle."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  # registers the filters that detectors write: without it compressed frames cannot be read
import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import H5PY_ERRORS
from ptycho.data.scan import Frames
from ptycho.errors import DataError

# Frames are read in pieces of about this size and put in their places, so no second copy of a large read is made.
PIECE_BYTES = 4 * 2**20
# Decompressed chunks that HDF5 keeps: a sweep meets each frame once, so more (8 MB by default) is held for nothing.
CACHE_BYTES = 2**20


class HDF5Frames:
    """A dataset of frames.

    axes: which axis of the dataset is which, one letter each: "n" for positions (several: a raster, the last one
          fastest), "y" and "x"; usually "nyx"

    The file is opened by the process that reads and stays open there: thousands of ranks opening it for every batch
    would load a cluster's file server. A forked or unpickled copy opens its own.
    """

    def __init__(
        self, path: Path, dataset: str, stored: tuple[int, ...], dtype: np.dtype[np.generic], axes: str
    ) -> None:
        self._path, self._dataset, self._stored, self._axes = path, dataset, stored, axes
        self._raster = tuple(length for length, axis in zip(stored, axes, strict=True) if axis == "n")
        self.shape = math.prod(self._raster), stored[axes.index("y")], stored[axes.index("x")]
        self.dtype = dtype
        self._open: tuple[int, h5py.Dataset] | None = None

    @classmethod
    def of(cls, path: Path, dataset: h5py.Dataset, axes: str = "nyx") -> HDF5Frames:
        """The frames of an opened dataset of the file `path`, or of another file that a link in it leads to.

        Raises DataError when it is not an array of real numbers with these axes.
        """
        if dataset.ndim != len(axes) or dataset.dtype.kind not in "iuf":
            raise DataError(
                f"{path}: {dataset.name} has shape {dataset.shape} and type {dataset.dtype};"
                f" frames must be real numbers with axes ({_named(axes)})."
            )
        home = Path(dataset.file.filename)
        return cls(home, dataset.name, dataset.shape, dataset.dtype.newbyteorder("="), axes)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Stored values (len(indices), y, x) in the order asked for. Raises DataError naming the frames."""
        result = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        order = np.argsort(indices, kind="stable")
        ascending = indices[order]
        for first, last in self._pieces(ascending):
            start, stop = int(ascending[first]), int(ascending[last - 1]) + 1
            result[order[first:last]] = self._read_piece(start, stop)[ascending[first:last] - start]
        return result

    def _pieces(self, ascending: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Ranges of `ascending` whose frames follow one another in the file, each of at most PIECE_BYTES.

        A piece of a raster lies within one of its lines.
        """
        longest = max(1, PIECE_BYTES // max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize))
        edges = np.flatnonzero(np.diff(ascending, prepend=-2, append=np.iinfo(np.int64).max) > 1)
        for first, last in pairwise(edges):
            cuts = np.searchsorted(ascending, np.arange(ascending[first], ascending[last - 1] + 1, longest))
            if len(self._raster) > 1:
                lines = np.searchsorted(ascending, np.arange(0, self.shape[0], self._raster[-1]))
                cuts = np.union1d(cuts, lines[(lines > first) & (lines < last)])
            yield from pairwise([*cuts, last])

    def _read_piece(self, start: int, stop: int) -> NDArray[np.generic]:
        """Consecutive frames. 64 single frames of 64² take 0.4 ms this way, 14 ms by h5py's list selection."""
        *line, first = np.unravel_index(start, self._raster)
        at = iter([*line, slice(first, first + stop - start)])
        selection = tuple(next(at) if axis == "n" else slice(None) for axis in self._axes)
        try:
            frames: NDArray[np.generic] = self._opened()[selection]
        except H5PY_ERRORS as error:
            raise DataError(
                f"{self._path}: frames {start} to {stop - 1} cannot be read ({error}); the file is truncated or"
                " damaged, or the disk failed. Copy the file again."
            ) from error
        left = self._axes.replace("n", "", len(self._raster) - 1)
        return frames.transpose([left.index(axis) for axis in "nyx"])

    def _opened(self) -> h5py.Dataset:
        if self._open is None or self._open[0] != os.getpid():
            # Network file systems often refuse locks; the file is only read here.
            file = h5py.File(self._path, "r", locking="best-effort", rdcc_nbytes=CACHE_BYTES)
            self._open = os.getpid(), file[self._dataset]
        return self._open[1]


class JoinedFrames:
    """Frames of several pieces of one scan, one after another: Eiger's data files, ptypy's chunks, ptychodus' arrays.

    order: the place among the joined frames of each frame of the scan; None means: as they come
    """

    def __init__(self, parts: Sequence[Frames], order: NDArray[np.int64] | None = None) -> None:
        self._parts, self._order = tuple(parts), order
        self._ends = np.cumsum([part.shape[0] for part in parts])
        n = int(self._ends[-1]) if order is None else len(order)
        self.shape = n, *parts[0].shape[1:]
        self.dtype: np.dtype[np.generic] = np.result_type(*(part.dtype for part in parts))

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Stored values (len(indices), y, x) in the order asked for. Raises DataError naming the frames."""
        stored = indices if self._order is None else self._order[indices]
        result = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        home = np.searchsorted(self._ends, stored, side="right")
        for number in np.unique(home):
            chosen = home == number
            start = int(self._ends[number]) - self._parts[number].shape[0]
            result[chosen] = self._parts[number].read(stored[chosen] - start)
        return result


def _named(axes: str) -> str:
    words = {"n": "position", "y": "y", "x": "x"}
    return ", ".join(words[axis] for axis in axes)
