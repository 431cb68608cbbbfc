"""What a file contains, found without reading its arrays: the basis on which a format is recognised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ptycho.data.formats.npz_archive import NpzArchive
from ptycho.data.trial import HDF5_SIGNATURE, USER_BLOCKS
from ptycho.errors import DataError

TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
RECOGNISED_BY = ("format", "version", "NX_class")
_PARTS = re.compile(r"\d+|\D+")
# Enough to recognise any format and to be listed in a message; NeXus trees can have thousands of entries.
MAX_NAMES = 500
# What h5py raises on damage, besides its usual errors: names that are no text, lengths that overflow.
H5PY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, SystemError)


@dataclass(frozen=True)
class Contents:
    """Names and shapes in one file.

    kind:       how the bytes are organised
    arrays:     shape of each array; names in an HDF5 file are paths without the leading slash
    attributes: those of an HDF5 file's root that say what it is: format, version, NX_class
    archive:    the opened archive when the file is an NPZ, else None
    """

    path: Path
    kind: Literal["hdf5", "matlab", "npz", "npy", "tiff"]
    arrays: dict[str, tuple[int, ...]]
    attributes: dict[str, object] = field(default_factory=dict)
    archive: NpzArchive | None = None

    @property
    def is_hdf5(self) -> bool:
        """Whether h5py opens the file; MATLAB 7.3 files are HDF5 with a block of text in front."""
        return self.kind in ("hdf5", "matlab")

    @property
    def listing(self) -> str:
        """The arrays with their shapes, for messages."""
        shown = [f"{name} {shape}" for name, shape in list(self.arrays.items())[:12]]
        more = len(self.arrays) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "") if shown else "no arrays"


def look_into(path: Path) -> Contents:
    """The contents of an HDF5 file, NumPy file, NPZ archive or TIFF file or folder, told apart by their first bytes.

    Raises DataError when the file is missing, unreadable, damaged or none of these.
    """
    if path.is_dir():
        return Contents(path, "tiff", {name.name: () for name in tiff_files(path)})
    start = _first_bytes(path)
    if start.startswith(b"MATLAB 7.3 MAT-file"):
        return _look_into_hdf5(path, "matlab")
    if any(start[at:].startswith(HDF5_SIGNATURE) for at in USER_BLOCKS):
        return _look_into_hdf5(path, "hdf5")
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"BZh")):
        archive = NpzArchive(path)
        return Contents(path, "npz", {name: header.shape for name, header in archive.headers.items()}, archive=archive)
    if start.startswith(b"\x93NUMPY"):
        return Contents(path, "npy", {path.stem: ()})
    if start.startswith(TIFF_SIGNATURES):
        return Contents(path, "tiff", {path.name: ()})
    if start.startswith(b"MATLAB 5.0 MAT-file"):
        raise DataError(
            f"{path}: a MATLAB file of version 5 or 7; save it with -v7.3, which can be read piece by piece."
        )
    raise DataError(
        f"{path}: neither an HDF5 file nor an NPZ archive nor TIFF (it starts with {start[:8]!r});"
        " give the file that holds the diffraction frames."
    )


def tiff_files(folder: Path) -> list[Path]:
    """The TIFF files in a folder, in the order of the numbers in their names. Raises DataError when there are none."""
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in (".tif", ".tiff")]
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror}); check its permissions.") from error
    if not found:
        raise DataError(f"{folder}: is a folder without TIFF files; give the scan file inside it.")
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in _PARTS.findall(path.name)])


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(2 * USER_BLOCKS[-1])
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path (relative paths start at the job spec).") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions and the disk.") from error
    if not start:
        raise DataError(f"{path}: the file is empty; copy or measure it again.")
    return start


def _look_into_hdf5(path: Path, kind: Literal["hdf5", "matlab"]) -> Contents:
    import h5py

    arrays: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item.shape or ()
        return True if len(arrays) >= MAX_NAMES else None

    def note_link(name: str, link: object) -> bool | None:
        # Links may lead in circles or to files that are not here: only datasets at their end are named.
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            try:
                item = file.get(name)
            except H5PY_ERRORS:
                return None
            note(name, item)
        return True if len(arrays) >= MAX_NAMES else None

    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            file.visititems(note)
            file.visititems_links(note_link)
            attributes = _attributes(file)
    except H5PY_ERRORS as error:
        raise DataError(
            f"{path}: the HDF5 file cannot be opened ({error}); it is truncated, damaged or still being written."
            " Copy it again."
        ) from error
    return Contents(path, kind, arrays, attributes)


def _attributes(file: Any) -> dict[str, object]:
    """The attributes by which formats are recognised; no others, for each is a place where a file may be damaged."""
    found: dict[str, object] = {}
    for name in RECOGNISED_BY:
        try:
            if name in file.attrs:
                found[name] = file.attrs[name]
        except H5PY_ERRORS:
            # Of a type that h5py does not know: nothing that a format is recognised by.
            continue
    return found
