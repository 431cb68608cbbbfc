"""Positions of a scan in a file of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.cxi_geometry import read_geometry, read_translations
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.geometry import Geometry, metres_to_px
from ptycho.data.scan import Scan
from ptycho.errors import DataError

# A line of text for each position; a million positions take about 50 MB.
TEXT_LIMIT_BYTES = 256 * 2**20
INDEXES = "probe_position_indexes"


def read_positions(path: Path, n: int, geometry: Geometry, patch_size: int, notes: list[str]) -> NDArray[np.float64]:
    """Positions (n, 2) = (y, x) in object pixels of n frames, with a sentence about their file added to `notes`.

    Where the file numbers its positions (probe_position_indexes), the number is that of the frame. Understood are: text
    with y, x in metres (ptychodus' CSV) or x y in metres (its TXT, separated by blanks); HDF5 with our own `positions`,
    with probe_position_y_m and probe_position_x_m, or with CXI's translation; NPZ with ycoords and xcoords or with
    probe_position_y_m and probe_position_x_m. Raises DataError for anything else.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; data.positions must name the file with the positions.")
    if is_text(path):
        values, order = _read_text(path)
        notes.append(f"Positions come from {path.name}: {order}, in metres.")
        values = metres_to_px(values, geometry, patch_size)
    else:
        values = _read_arrays(look_into(path), n, geometry, patch_size, notes)
    if len(values) != n:
        raise DataError(f"{path}: {len(values)} positions for {n} frames; one for each is needed.")
    return values


def with_positions(scan: Scan, path: Path) -> Scan:
    """The scan with the positions of another file, where its reader has not taken them from there already.

    A first guess of the object lies where the scan's own positions put it, so it is left out.
    """
    notes: list[str] = []
    positions = read_positions(path, scan.n_positions, scan.geometry, scan.patch_size, notes)
    if np.array_equal(positions, scan.positions_px):
        return scan
    return replace(
        scan, positions_px=positions, object_start=None, object_grid=None, assumptions=(*scan.assumptions, *notes)
    )


def is_text(path: Path) -> bool:
    """Whether the file is lines of numbers."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    return bool(start) and not set(start) - set(b"0123456789+-.eE,; \t\r\nnaif#xymXY_()[]")


def _read_text(path: Path) -> tuple[NDArray[np.float64], str]:
    if path.stat().st_size > TEXT_LIMIT_BYTES:
        raise DataError(f"{path}: {path.stat().st_size / 2**20:.0f} MiB of text are no list of positions.")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    has_commas = any("," in line for line in lines[:3])
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            row = [float(part) for part in (line.split(",") if has_commas else line.split())]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not two numbers.") from error
        if len(row) != 2:
            raise DataError(f"{path}, line {number}: {len(row)} numbers; two are needed, in metres.")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no positions; two numbers in each line are needed, in metres.")
    values = np.asarray(rows, dtype=np.float64)
    return (values, "y, x in each line") if has_commas else (values[:, ::-1].copy(), "x y in each line")


def _read_arrays(
    contents: Contents, n: int, geometry: Geometry, patch_size: int, notes: list[str]
) -> NDArray[np.float64]:
    names = contents.arrays.keys()
    in_metres = {"probe_position_y_m", "probe_position_x_m"} <= names
    pair = ("probe_position_y_m", "probe_position_x_m") if in_metres else ("ycoords", "xcoords")
    numbers: NDArray[np.int64] | None = None
    if contents.archive is not None and set(pair) <= names:
        columns = [contents.archive.load(name).astype(np.float64).reshape(-1) for name in pair]
        if INDEXES in names:
            numbers = contents.archive.load(INDEXES).astype(np.int64).reshape(-1)
    elif contents.is_hdf5:
        with opened(contents) as source:
            columns, in_metres = _columns(source, pair if in_metres else None)
            if INDEXES in names:
                numbers = source.array(INDEXES, "iu").astype(np.int64).reshape(-1)
    else:
        raise DataError(_unknown(contents))
    if len({len(column) for column in columns}) != 1:
        raise DataError(f"{contents.path}: different numbers of y and x positions.")
    positions = np.stack(columns, axis=1)
    if numbers is not None:
        positions = _by_number(contents, positions, numbers, n)
    notes.append(f"Positions come from {contents.path.name}, in {'metres' if in_metres else 'object pixels'}.")
    return metres_to_px(positions, geometry, patch_size) if in_metres else positions


def _columns(source: HDF5Source, pair: tuple[str, str] | None) -> tuple[list[NDArray[np.float64]], bool]:
    """y and x of an HDF5 file, and whether they are metres."""
    if pair is not None:
        return [source.array(name).astype(np.float64).reshape(-1) for name in pair], True
    if source.first("positions") is not None:
        values = source.array("positions").astype(np.float64)
        if values.ndim != 2 or values.shape[1] != 2 or source.units("positions") not in ("px", "m"):
            raise DataError(f'{source.path}: /positions must be (position, 2) with units "px" or "m".')
        return list(values.T), source.units("positions") == "m"
    moved = read_translations(source, read_geometry(source))
    if moved is None:
        raise DataError(_unknown(source))
    return list(moved.T), True


def _by_number(
    contents: Contents, positions: NDArray[np.float64], numbers: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """The positions of frames 0 … n − 1."""
    _, _, at = np.intersect1d(np.arange(n), numbers, return_indices=True)
    if len(numbers) != len(positions) or len(at) != n or len(np.unique(numbers)) != len(numbers):
        raise DataError(
            f"{contents.path}: its {len(numbers)} indexes name {len(at)} of {n} frames; each must be named once."
        )
    return positions[at]


def _unknown(found: Contents | HDF5Source) -> str:
    return (
        f"{found.path}: no positions that are known. It contains: {found.listing}. Known are text with y, x in metres,"
        " and HDF5 or NPZ with probe_position_y_m and probe_position_x_m."
    )
