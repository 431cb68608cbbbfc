"""The NPZ files of tike's test data: data, scan, probe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.detector import as_counts, centre_frames, dead_pixels
from ptycho.data.formats.npz_archive import NpzArchive, NpzFrames
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.frames import CheckedFrames
from ptycho.data.geometry import Geometry
from ptycho.data.scan import Frames, Scan
from ptycho.errors import DataError


def matches(contents: Contents) -> bool:
    """Whether the archive has the three arrays."""
    return contents.archive is not None and {"data", "scan", "probe"} <= contents.arrays.keys()


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the archive. Raises DataError when shapes do not fit.

    In the file: data ([1,] position, y, x) with zero frequency at [0, 0]; scan ([1,] position, 2) in pixels, (y, x) of
    the window's first pixel; probe (…, mode, y, x).
    """
    archive, source = contents.archive, str(contents.path)
    assert archive is not None  # `matches` said so
    shape = archive.headers["data"].shape
    if len(shape) < 3 or any(length != 1 for length in shape[:-3]) or archive.headers["data"].dtype.kind not in "iuf":
        raise DataError(f"{source}: data has shape {shape}; it must be real numbers with axes (position, y, x).")
    frames, where = centre_frames(NpzFrames(archive, "data"), source, "corner", overrides)
    mask, dead = _good_pixels(frames)
    counts, what = as_counts(CheckedFrames(frames, source, mask), source, overrides, None)
    size = shape[-1]
    notes = [
        where,
        what,
        f"Positions were of the window's first pixel; {size // 2} px were added to name pixel N // 2.",
    ]
    if dead:
        notes.append(dead)
    others = sorted(contents.arrays.keys() - {"data", "scan", "probe"})
    if others:
        notes.append(f"Not used: {', '.join(others)}.")
    return Scan(
        name=contents.path.name.split(".")[0],
        path=contents.path,
        frames=CheckedFrames(counts, source, mask),
        positions_px=_positions(archive) + size // 2,
        probe=_probe(archive),
        mask=mask,
        geometry=overrides.geometry(Geometry()),
        assumptions=tuple(notes),
    )


def _positions(archive: NpzArchive) -> NDArray[np.float64]:
    positions = archive.load("scan")
    if positions.shape[-1:] != (2,) or positions.dtype.kind not in "iuf":
        raise DataError(f"{archive.path}: scan has shape {positions.shape}; it must be (position, 2).")
    return positions.reshape(-1, 2).astype(np.float64)


def _probe(archive: NpzArchive) -> NDArray[np.complex64]:
    # Its axes in front are time, variation, layer; only one of each is stored but for modes.
    return as_modes(archive.load("probe"), f"{archive.path}: probe")


def _good_pixels(frames: Frames) -> tuple[NDArray[np.bool_] | None, str]:
    dead = dead_pixels(frames)
    if not dead.any():
        return None, ""
    listed = ", ".join(f"({y}, {x})" for y, x in np.argwhere(dead)[:5])
    more = "" if dead.sum() <= 5 else f" and {dead.sum() - 5} more"
    return ~dead, (
        f"{dead.sum()} dead pixels were masked: zero in every frame looked at although their neighbours are bright,"
        f" at {listed}{more}."
    )
