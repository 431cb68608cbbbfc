"""A bare NumPy array of frames, as ptychodus writes diffraction.npy; positions come from a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.npz_archive import ARRAY_LIMIT_BYTES, DAMAGED, HEADER_LIMIT_BYTES
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.scan import Scan
from ptycho.errors import DataError


class NpyFrames:
    """Frames (position, y, x) in an .npy file, mapped; the map is opened anew after fork and pickle."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mapped: NDArray[Any] | None = None
        mapped = self._open()
        if mapped.ndim != 3 or mapped.dtype.kind not in "iuf":
            raise DataError(
                f"{path}: an array of shape {mapped.shape} and type {mapped.dtype}; frames must be real numbers with"
                " axes (position, y, x)."
            )
        self.shape: tuple[int, int, int] = (mapped.shape[0], mapped.shape[1], mapped.shape[2])
        self.dtype: np.dtype[np.generic] = mapped.dtype.newbyteorder("=")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Stored values (len(indices), y, x) in the order asked for."""
        if self._mapped is None:
            self._mapped = self._open()
        return self._mapped[indices].astype(self.dtype)

    def _open(self) -> NDArray[Any]:
        try:
            return npy.open_memmap(self._path, mode="r", max_header_size=HEADER_LIMIT_BYTES)
        except DAMAGED as error:
            raise DataError(
                f"{self._path}: not a complete NPY file ({error}); it is truncated or damaged. Copy it again."
            ) from error


def read_array(path: Path) -> NDArray[Any]:
    """A whole .npy file in memory. Raises DataError when it is damaged, very large or holds Python objects."""
    try:
        mapped = npy.open_memmap(path, mode="r", max_header_size=HEADER_LIMIT_BYTES)
    except DAMAGED as error:
        raise DataError(f"{path}: not a complete NPY file ({error}); copy it again.") from error
    if mapped.nbytes > ARRAY_LIMIT_BYTES:
        raise DataError(f"{path}: {mapped.nbytes / 2**30:.0f} GiB are more than such an array may have.")
    return np.array(mapped)


def matches(contents: Contents) -> bool:
    """Whether the file is a single NumPy array."""
    return contents.kind == "npy"


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the file. Raises DataError when `positions` names no file."""
    frames = NpyFrames(contents.path)
    is_square = frames.shape[1] == frames.shape[2]
    return Measurement(path=contents.path, frames=frames, zero_frequency="centre" if is_square else None).scan(
        overrides
    )
