"""Readers of scan files. A new format is one module with `matches` and `read`, and one row in FORMATS."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.scan import Scan
from ptycho.errors import DataError

__all__ = ["FORMATS", "Format", "ReadOverrides", "open_scan"]


@dataclass(frozen=True)
class Format:
    """One row of the table.

    module:     imported when the format is tried; has matches(contents) and read(contents, overrides)
    recognised: what a file of this format has, for messages and documentation
    """

    name: str
    module: str
    recognised: str


# In the order in which they are tried: the most specific first.
FORMATS = (
    Format("PtychoPINN scan", "ptycho.data.formats.hdf5", 'HDF5 with attribute format = "ptychopinn-scan"'),
    Format("ptychodus product", "ptycho.data.formats.product", "HDF5 with object, probe, probe_position_x_m"),
    Format("PtychoPINN NPZ", "ptycho.data.formats.npz", "NPZ with xcoords, ycoords, diff3d (or diffraction)"),
    Format("tike test data", "ptycho.data.formats.tike", "NPZ with data, scan, probe"),
)


def open_scan(path: Path, overrides: ReadOverrides | None = None) -> Scan:
    """The scan in a file, its format recognised by content, its frames left in the file.

    Raises DataError when the file is missing, unreadable, damaged, of no known format or inconsistent.
    """
    path = Path(path)
    contents = look_into(path)
    for row in FORMATS:
        module = import_module(row.module)
        if module.matches(contents):
            return _read(module, contents, overrides or ReadOverrides())
    known = "; ".join(f"{row.name} ({row.recognised})" for row in FORMATS)
    raise DataError(f"{path}: no known scan format. It contains: {contents.listing}. Known formats: {known}.")


def _read(module: ModuleType, contents: Contents, overrides: ReadOverrides) -> Scan:
    try:
        scan: Scan = module.read(contents, overrides)
    except DataError as error:
        if str(contents.path) in str(error):
            raise
        raise DataError(f"{contents.path}: {error}") from error
    return scan
