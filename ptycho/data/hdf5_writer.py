"""Writing an HDF5 file so that it appears whole or not at all, also when the disk fills up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import h5py

from ptycho.whole_file import whole_file


class _Sink:
    """A binary file whose failures are remembered instead of raised.

    HDF5 cannot close a file after a write has failed: it crashes the process when Python exits. So HDF5 is told that
    every write succeeded, and `failure` is looked at afterwards.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        # HDF5 asks only for what it believes to have written; what was lost reads as zeros.
        found = self._file.readinto(buffer)
        buffer[found:] = bytes(len(buffer) - found)
        return len(buffer)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def write(self, data: memoryview) -> int:
        self._attempt(self._file.write, data)
        return len(data)

    def truncate(self, size: int) -> int:
        self._attempt(self._file.truncate, size)
        return size

    def flush(self) -> None:
        self._attempt(self._file.flush)

    def _attempt(self, action: Callable[..., object], *arguments: object) -> None:
        if self.failure is None:
            try:
                action(*arguments)
            except OSError as error:
                self.failure = error


class NewHDF5(h5py.File):  # type: ignore[misc]
    """An HDF5 file that is being written."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__(sink, "w")
        self._sink = sink

    def check_disk(self) -> None:
        """Raise the OSError of an earlier write, so that a long writer can stop early."""
        if self._sink.failure is not None:
            raise self._sink.failure


@contextmanager
def new_hdf5(path: Path) -> Iterator[NewHDF5]:
    """A new HDF5 file that takes its name when the block ends well, and is removed when it does not.

    Raises WorkError when the folder or the disk refuses it. Long writers call `check_disk` between blocks.
    """
    with whole_file(path) as partial, partial.open("w+b", buffering=0) as raw:
        sink = _Sink(raw)
        with NewHDF5(sink) as file:
            yield file
        if sink.failure is not None:
            raise sink.failure
