"""Readers of scan files. A new format is one module with `matches` and `read`, and one row in FORMATS."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.likely_keys import proposed_keys
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.positions import with_positions
from ptycho.data.formats.ptychodus import may_lie_beside
from ptycho.data.formats.start import with_start
from ptycho.data.orientation import turn
from ptycho.data.scan import Scan
from ptycho.data.trial import try_apart
from ptycho.errors import DataError

__all__ = ["FORMATS", "Format", "ReadOverrides", "files_of", "format_of", "open_scan"]


from ptycho.data.formats.table import FORMATS, Format

KEYED_MODULE = "ptycho.data.formats.keys"


def open_scan(path: Path, overrides: ReadOverrides | None = None) -> Scan:
    """The scan in a file, its format recognised by content, its frames left in the file.

    Raises DataError when the file is missing, unreadable, damaged, of no known format or inconsistent; also when it
    crashes the HDF5 library or makes it loop.
    """
    path, said = Path(path), overrides or ReadOverrides()
    try_apart(files_of(path, said), lambda: _open(path, said).frames.read(np.array([0])))
    return _open(path, said)


def files_of(path: Path, said: ReadOverrides) -> list[Path | None]:
    """The files that opening a scan may read, the scan's own first."""
    return [path, said.positions, said.start, *may_lie_beside(path)]


def _open(path: Path, said: ReadOverrides) -> Scan:
    contents = look_into(path)
    if said.keys is not None:
        module = import_module(KEYED_MODULE)
    else:
        row = format_of(contents)
        if row is None:
            raise DataError(_unknown(contents))
        module = import_module(row.module)
    return _read(module, contents, said)


def format_of(contents: Contents) -> Format | None:
    """The row of the table that the contents fit, or None."""
    return next((row for row in FORMATS if import_module(row.module).matches(contents)), None)


def _unknown(contents: Contents) -> str:
    known = "; ".join(f"{row.name} ({row.recognised})" for row in FORMATS)
    by_keys = f" Name its datasets, perhaps: keys = {proposed_keys(contents)} in [data]." if contents.is_hdf5 else ""
    return f"{contents.path}: no known scan format. It contains: {contents.listing}.{by_keys} Known formats: {known}."


def _read(module: ModuleType, contents: Contents, said: ReadOverrides) -> Scan:
    try:
        scan: Scan = module.read(contents, said)
        # Readers of measurements, which know how their frames lie on the detector, have looked for positions already.
        if said.positions is not None and scan.detector is None:
            scan = with_positions(scan, said.positions)
        if said.start is not None:
            scan = with_start(scan, said.start)
        return turn(scan, frame_axes=said.frame_axes, position_axes=said.position_axes)
    except DataError as error:
        if str(contents.path) in str(error):
            raise
        raise DataError(f"{contents.path}: {error}") from error
