"""Converting a scan file of any known format to our own layout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from ptycho.data.formats import ReadOverrides, open_scan
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.frames import FrameSummary
from ptycho.data.preparation import prepare
from ptycho.data.scan import Scan
from ptycho.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted: the scan as it was read, and what its frames hold."""

    scan: Scan
    frames: FrameSummary
    destination: Path


def convert_scan(
    source: Path,
    destination: Path,
    *,
    overrides: ReadOverrides | None = None,
    crop_px: int | None = None,
    mask_path: Path | None = None,
    name: str | None = None,
    notes: dict[str, object] | None = None,
) -> Conversion:
    """Write the scan in `source` to `destination` in our layout; provenance keeps the source's name and SHA-256.

    crop_px, mask_path: as `prepare` takes them
    name:  the scan's name where the source's own is not wanted
    notes: further facts for the provenance, such as the licence of the data

    Raises DataError when the source cannot be read or holds impossible frames, WorkError when the disk refuses.
    """
    if destination.exists() and source.exists() and destination.samefile(source):
        raise DataError(f"{destination}: source and destination are the same file; give another destination.")
    if not destination.parent.is_dir():
        raise DataError(f"{destination.parent}: no such folder; make it or choose another destination.")
    scan = prepare(open_scan(source, overrides), crop_px=crop_px, mask_path=mask_path)
    origin = {"source": {"name": source.name, "sha256": _sha256(source)}, **(notes or {})}
    scan = replace(scan, name=name or scan.name, provenance={**scan.provenance, **origin})
    return Conversion(scan=scan, frames=write_scan(scan, destination), destination=destination)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
