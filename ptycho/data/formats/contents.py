"""What a file contains, found without reading its arrays: the basis on which a format is recognised."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ptycho.data.formats.npz_archive import NpzArchive
from ptycho.errors import DataError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Enough to recognise any format and to be listed in a message; NeXus trees can have thousands of entries.
MAX_NAMES = 500


@dataclass(frozen=True)
class Contents:
    """Names and shapes in one file.

    arrays:     shape of each array; names in an HDF5 file are paths without the leading slash
    attributes: attributes of an HDF5 file's root
    archive:    the opened archive when the file is an NPZ, else None
    """

    path: Path
    arrays: dict[str, tuple[int, ...]]
    attributes: dict[str, object] = field(default_factory=dict)
    archive: NpzArchive | None = None

    @property
    def listing(self) -> str:
        """The arrays with their shapes, for messages."""
        shown = [f"{name} {shape}" for name, shape in list(self.arrays.items())[:12]]
        more = len(self.arrays) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "") if shown else "no arrays"


def look_into(path: Path) -> Contents:
    """The contents of an HDF5 file or NPZ archive, told apart by their first bytes.

    Raises DataError when the file is missing, unreadable, damaged or neither of the two.
    """
    start = _first_bytes(path)
    if start.startswith(HDF5_SIGNATURE):
        return _look_into_hdf5(path)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"BZh")):
        archive = NpzArchive(path)
        return Contents(path, {name: header.shape for name, header in archive.headers.items()}, archive=archive)
    raise DataError(
        f"{path}: neither an HDF5 file nor an NPZ archive (it starts with {start[:8]!r});"
        " give the file that holds the diffraction frames."
    )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path (relative paths start at the job spec).") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder; give the scan file inside it.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions and the disk.") from error
    if not start:
        raise DataError(f"{path}: the file is empty; copy or measure it again.")
    return start


def _look_into_hdf5(path: Path) -> Contents:
    import h5py

    arrays: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item.shape or ()
        return True if len(arrays) >= MAX_NAMES else None

    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            file.visititems(note)
            attributes = dict(file.attrs)
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: the HDF5 file cannot be opened ({error}); it is truncated, damaged or still being written."
            " Copy it again."
        ) from error
    return Contents(path, arrays, attributes)
