"""Frames in an HDF5 dataset, read by index; safe after fork and pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  # registers the filters that detectors write: without it compressed frames cannot be read
import numpy as np
from numpy.typing import NDArray

from ptycho.errors import DataError

# Frames are read in pieces of about this size and put in their places, so no second copy of a large read is made.
PIECE_BYTES = 4 * 2**20


class HDF5Frames:
    """A dataset (position, y, x).

    The file is opened by the process that reads and stays open there: thousands of ranks opening it for every batch
    would load a cluster's file server. A forked or unpickled copy opens its own.
    """

    def __init__(self, path: Path, dataset: str, shape: tuple[int, int, int], dtype: np.dtype[np.generic]) -> None:
        self._path, self._dataset = path, dataset
        self.shape, self.dtype = shape, dtype
        self._open: tuple[int, h5py.Dataset] | None = None

    @classmethod
    def of(cls, path: Path, dataset: h5py.Dataset) -> HDF5Frames:
        """The frames of an opened dataset. Raises DataError when it is not an array of real numbers of three axes."""
        if dataset.ndim != 3 or dataset.dtype.kind not in "iuf":
            raise DataError(
                f"{path}: {dataset.name} has shape {dataset.shape} and type {dataset.dtype};"
                " frames must be real numbers with axes (position, y, x)."
            )
        return cls(path, dataset.name, dataset.shape, dataset.dtype.newbyteorder("="))

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
        """Ranges of `ascending` whose frames follow one another in the file, each of at most PIECE_BYTES."""
        longest = max(1, PIECE_BYTES // max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize))
        edges = np.flatnonzero(np.diff(ascending, prepend=-2, append=np.iinfo(np.int64).max) > 1)
        for first, last in pairwise(edges):
            cuts = np.searchsorted(ascending, np.arange(ascending[first], ascending[last - 1] + 1, longest))
            yield from pairwise([*cuts, last])

    def _read_piece(self, start: int, stop: int) -> NDArray[np.generic]:
        """Consecutive frames. 64 single frames of 64² take 0.4 ms this way, 14 ms by h5py's list selection."""
        try:
            frames: NDArray[np.generic] = self._opened()[start:stop]
        except (OSError, RuntimeError, KeyError) as error:
            raise DataError(
                f"{self._path}: frames {start} to {stop - 1} cannot be read ({error}); the file is truncated or"
                " damaged, or the disk failed. Copy the file again."
            ) from error
        return frames

    def _opened(self) -> h5py.Dataset:
        if self._open is None or self._open[0] != os.getpid():
            # Network file systems often refuse locks; the file is only read here.
            file = h5py.File(self._path, "r", locking="best-effort")
            self._open = os.getpid(), file[self._dataset]
        return self._open[1]
