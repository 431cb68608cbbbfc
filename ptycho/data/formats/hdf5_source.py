"""An opened HDF5 file from anywhere: every array is looked at before it is read, so no file can fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  # registers the filters that detectors write
import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import H5PY_ERRORS, Contents
from ptycho.errors import DataError

# A probe, an object or a list of positions larger than this is a damaged header, not data.
ARRAY_LIMIT_BYTES = 2 * 2**30
# Above this size the file must really store the array: declaring an array costs nothing, filling memory with it does.
UNPROVEN_BYTES = 64 * 2**20
# Deflate packs zeros 1030 to 1; what claims more is a bomb.
LARGEST_RATIO = 1100
# The largest detectors have 18 million pixels; some writers put several frames into one piece.
FRAME_LIMIT_PX = 2**25
PIECE_LIMIT_BYTES = 512 * 2**20
MAX_SOURCES = 10_000


class HDF5Source:
    """One opened HDF5 file. Every failure is a DataError that names the file and the path in it."""

    def __init__(self, contents: Contents, file: h5py.File) -> None:
        self.path, self.listing = contents.path, contents.listing
        self._file = file

    def __contains__(self, name: str) -> bool:
        return self._get(name) is not None

    def _get(self, name: str) -> h5py.Dataset | h5py.Group | None:
        # A soft link in a circle, a missing external file and a broken object header all fail differently.
        try:
            return self._file.get(name)
        except H5PY_ERRORS:
            return None

    def first(self, *names: str) -> str | None:
        """The first of the names that is a dataset here, or None."""
        return next((name for name in names if isinstance(self._get(name), h5py.Dataset)), None)

    def dataset(self, name: str) -> h5py.Dataset:
        """The dataset, unread. Raises DataError when there is none of that name or its bytes lie elsewhere."""
        found = self._get(name)
        if not isinstance(found, h5py.Dataset):
            raise DataError(f"{self.path} has no dataset /{name.lstrip('/')}. It contains: {self.listing}.")
        if found.shape is None:
            raise DataError(f"{self.path}: {found.name} is an empty dataset without a shape; it must be an array.")
        with self._said(name):
            # Of damaged types h5py says so only when it is asked.
            _ = found.dtype
        if not found.is_virtual and found.external:
            raise DataError(
                f"{self.path}: {found.name} keeps its bytes in {found.external[0][0]!r}, a file that is not HDF5;"
                " such files are not followed. Copy the data into the file."
            )
        return found

    def names(self, group: str = "/") -> list[str]:
        """The names in a group, sorted; empty when it is none."""
        found = self._get(group)
        if not isinstance(found, h5py.Group):
            return []
        return sorted(name for name, _ in zip(found, range(MAX_SOURCES), strict=False))

    def is_group(self, name: str) -> bool:
        """Whether there is a group of that name."""
        return isinstance(self._get(name), h5py.Group)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a dataset."""
        shape: tuple[int, ...] = self.dataset(name).shape
        return shape

    def attribute(self, name: str, key: str) -> Any:
        """An attribute of a dataset or group as h5py gives it, or None."""
        found = self._get(name)
        if found is None:
            return None
        with self._said(f"attribute {key} of {name}"):
            return found.attrs.get(key)

    def array(self, name: str, kinds: str = "iuf") -> NDArray[Any]:
        """A whole dataset in memory, in this machine's byte order.

        kinds: the NumPy kinds that are allowed; "c" also takes MATLAB's pairs of real and imag
        Raises DataError when it is missing, of another type, damaged or absurdly large.
        """
        dataset = self.dataset(name)
        kind = "c" if _is_pair(dataset.dtype) else dataset.dtype.kind
        if kind not in kinds:
            raise DataError(f"{self.path}: {dataset.name} has type {dataset.dtype}; it must hold {_words(kinds)}.")
        self._refuse_absurd(dataset)
        with self._said(dataset.name):
            values: NDArray[Any] = np.asarray(dataset[()])
        if _is_pair(values.dtype):
            values = values["real"] + 1j * values["imag"]
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def number(self, *names: str) -> float | None:
        """The one number in the first of these datasets that exists; None where none does.

        Raises DataError for several different numbers or none at all.
        """
        name = self.first(*names)
        if name is None:
            return None
        if int(np.prod(self.shape(name), dtype=object)) > 10**6:
            raise DataError(f"{self.path}: /{name} has shape {self.shape(name)}; it must be one number.")
        values = self.array(name, "iufb").astype(np.float64).reshape(-1)
        values = values[np.isfinite(values)]
        if not values.size or values.min() < values.max() - 1e-3 * abs(values.max()):
            raise DataError(f"{self.path}: /{name} holds {values.size} different finite numbers; it must hold one.")
        return float(values.mean())

    def text(self, name: str) -> str | None:
        """The text in a dataset, or None when there is none."""
        if self.first(name) is None:
            return None
        dataset = self.dataset(name)
        if dataset.size != 1 or not (dataset.dtype.kind in "SU" or h5py.check_string_dtype(dataset.dtype)):
            return None
        with self._said(name):
            value = np.asarray(dataset[()]).reshape(-1)[0]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """The texts in a dataset (n,); none when there is no such dataset."""
        if self.first(name) is None:
            return ()
        dataset = self.dataset(name)
        if dataset.ndim != 1 or dataset.size > MAX_SOURCES or not h5py.check_string_dtype(dataset.dtype):
            raise DataError(f"{self.path}: {dataset.name} of shape {dataset.shape} and type {dataset.dtype}: no texts.")
        with self._said(name):
            return tuple(dataset.asstr("utf-8", "replace")[()])

    def units(self, name: str) -> str | None:
        """The attribute `units` of a dataset as plain text, or None."""
        return self.label(name, "units")

    def number_attribute(self, name: str, key: str) -> float | None:
        """An attribute that is one finite number, or None where there is none. Raises DataError for anything else."""
        value = self.attribute(name, key)
        if value is None:
            return None
        try:
            (number,) = np.asarray(value, dtype=np.float64).reshape(-1).tolist()
        except (ValueError, TypeError):
            number = np.nan
        if not np.isfinite(number):
            raise DataError(f"{self.path}: {name}@{key} = {value!r}: must be one finite number.")
        return float(number)

    def label(self, name: str, key: str) -> str | None:
        """An attribute as plain text, however it is stored; None when it is not there or no single text."""
        value = self.attribute(name, key)
        if isinstance(value, np.ndarray):
            value = value.reshape(-1)[0] if value.size == 1 else None
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return value.strip() if isinstance(value, str) and value.strip() else None

    def check_frames(self, name: str, axes: str = "nyx") -> h5py.Dataset:
        """A dataset of frames that may be read by pieces: its pieces are of a sensible size, its sources are there.

        axes: as `HDF5Frames` has them; only whether positions come first or last is looked at
        """
        dataset = self.dataset(name)
        if dataset.dtype.kind not in "iuf" or dataset.ndim < 3:
            raise DataError(
                f"{self.path}: {dataset.name} has shape {dataset.shape} and type {dataset.dtype};"
                " frames must be real numbers with axes (position, y, x)."
            )
        self._refuse_large_frames(dataset, dataset.shape[:2] if axes.endswith("n") else dataset.shape[-2:])
        self._check_sources(dataset)
        return dataset

    def _check_sources(self, dataset: h5py.Dataset) -> None:
        """HDF5 reads zeros where a source of a virtual dataset is missing: a plausible, wrong scan."""
        if not dataset.is_virtual:
            return
        with self._said(dataset.name):
            sources = {(source.file_name, source.dset_name) for source in dataset.virtual_sources()[:MAX_SOURCES]}
        home = Path(dataset.file.filename).parent
        for file_name, dataset_name in sorted(sources):
            place = Path(dataset.file.filename) if file_name == "." else home / file_name
            try:
                with h5py.File(place, "r", locking="best-effort") as file:
                    source = file.get(dataset_name)
                    is_there = isinstance(source, h5py.Dataset)
                    if is_there:
                        self._refuse_large_frames(source, (source.shape or ())[-2:])
            except H5PY_ERRORS:
                is_there = False
            if not is_there:
                raise DataError(
                    f"{self.path}: {dataset.name} is a virtual dataset, and its source {dataset_name} in {place} is"
                    " missing, so its frames would read as zeros. Copy that file to the same place."
                )

    def _refuse_large_frames(self, dataset: h5py.Dataset, sides: tuple[int, ...]) -> None:
        piece = int(np.prod(dataset.chunks or (0,), dtype=object)) * dataset.dtype.itemsize
        if int(np.prod(sides, dtype=object)) <= FRAME_LIMIT_PX and piece <= PIECE_LIMIT_BYTES:
            return
        place = "" if dataset.file.filename == str(self.path) else f" of {dataset.file.filename}"
        raise DataError(
            f"{self.path}: {dataset.name}{place} has frames of {' × '.join(map(str, sides))} pixels in pieces of"
            f" {piece / 2**20:.0f} MiB; no detector has more than {FRAME_LIMIT_PX} pixels, and"
            f" {PIECE_LIMIT_BYTES / 2**20:.0f} MiB are the most that is read at a time. Check the order of the"
            " axes, or store it frame by frame."
        )

    def _refuse_absurd(self, dataset: h5py.Dataset) -> None:
        n_bytes = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        chunk = int(np.prod(dataset.chunks or (0,), dtype=object)) * dataset.dtype.itemsize
        limit = ARRAY_LIMIT_BYTES
        if max(n_bytes, chunk) > UNPROVEN_BYTES:
            limit = min(limit, max(UNPROVEN_BYTES, LARGEST_RATIO * dataset.id.get_storage_size()))
        if max(n_bytes, chunk) > limit:
            raise DataError(
                f"{self.path}: {dataset.name} declares shape {dataset.shape} ({n_bytes / 2**20:.0f} MiB) but stores"
                f" {dataset.id.get_storage_size()} bytes; the file is damaged."
            )

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        try:
            yield
        except H5PY_ERRORS as error:
            raise DataError(f"{self.path}: {what} cannot be read ({error}); copy the file again.") from error


@contextmanager
def opened(contents: Contents) -> Iterator[HDF5Source]:
    """The file, open for reading. What h5py raises on damage becomes DataError."""
    try:
        # Network file systems often refuse locks; the file is only read here.
        with h5py.File(contents.path, "r", locking="best-effort") as file:
            yield HDF5Source(contents, file)
    except (OSError, RuntimeError, KeyError, SystemError) as error:
        raise DataError(
            f"{contents.path}: damaged or not as documented ({error}); copy or convert it again."
        ) from error


def _is_pair(dtype: np.dtype[Any]) -> bool:
    """Whether this is how MATLAB stores complex numbers."""
    return dtype.names == ("real", "imag") and all(dtype[name].kind == "f" for name in dtype.names)


def _words(kinds: str) -> str:
    return "complex numbers" if "c" in kinds else "true or false" if kinds == "b" else "real numbers"
