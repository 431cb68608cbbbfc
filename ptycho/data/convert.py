"""Converting a scan file of any known format to our own layout, or to what other programs read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ptycho.data.formats import ReadOverrides, open_scan
from ptycho.data.formats.cxi_writer import write_cxi
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.formats.npz_writer import write_npz
from ptycho.data.formats.ptychodus_writer import write_ptychodus
from ptycho.data.frames import FrameSummary
from ptycho.data.preparation import prepare
from ptycho.data.scan import Scan
from ptycho.errors import DataError

Layout = Literal["ptychopinn", "cxi", "npz", "ptychodus"]
WRITERS: Mapping[str, Callable[[Scan, Path], FrameSummary]] = MappingProxyType(
    {"ptychopinn": write_scan, "cxi": write_cxi, "npz": write_npz, "ptychodus": write_ptychodus}
)


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
    layout: Layout = "ptychopinn",
    overrides: ReadOverrides | None = None,
    preparation: Mapping[str, Any] | None = None,
    name: str | None = None,
    notes: dict[str, object] | None = None,
) -> Conversion:
    """Write the scan in `source` to `destination`; in our layout, provenance keeps the source's name and SHA-256.

    layout: "ptychopinn" is ours, with everything; the others hold what other programs read
    preparation: as `prepare` takes it
    name:  the scan's name where the source's own is not wanted
    notes: further facts for the provenance, such as the licence of the data

    Raises DataError when the source cannot be read or holds impossible frames, WorkError when the disk refuses.
    """
    if destination.exists() and source.exists() and destination.samefile(source):
        raise DataError(f"{destination}: source and destination are the same file; give another destination.")
    if not destination.parent.is_dir():
        raise DataError(f"{destination.parent}: no such folder; make it or choose another destination.")
    scan = prepare(open_scan(source, overrides), **(preparation or {}))
    origin = {"source": {"name": source.name, "sha256": _sha256(source)}, **(notes or {})}
    scan = replace(scan, name=name or scan.name, provenance={**scan.provenance, **origin})
    return Conversion(scan=scan, frames=WRITERS[layout](scan, destination), destination=destination)


def _sha256(path: Path) -> str | None:
    if path.is_dir():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
