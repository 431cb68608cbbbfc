"""ptypy's files: .ptyd holds prepared frames in chunks, .ptyr a reconstruction. Lengths are metres, energies keV.

ptypy's first axis is y. A position is that of pixel shape // 2 of the window; an object's pixel (i, j) lies at
(i, j) · psize + origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.hdf5_frames import HDF5Frames, JoinedFrames
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.geometry import Geometry, Pixel
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan
from ptycho.data.subset import SubsetFrames
from ptycho.errors import DataError


def matches(contents: Contents) -> bool:
    """Whether the file has a .ptyd's chunks."""
    return contents.is_hdf5 and any(name.startswith("chunks/") and name.endswith("/data") for name in contents.arrays)


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan in a .ptyd; its frames stay in the file. Raises DataError when chunks do not fit one another.

    A frame whose `weights` are 0 at a pixel in any frame of its chunk counts as masked there in all.
    """
    with opened(contents) as source:
        chunks = sorted(source.names("chunks"), key=lambda name: (len(name), name))
        parts, positions, mask = [], [], _mask(source, "meta/weight2d")
        for name in chunks:
            home = f"chunks/{name}"
            parts.append(HDF5Frames.of(source.path, source.check_frames(f"{home}/data")))
            positions.append(_chunk_positions(source, home, parts[-1].shape[0]))
            own = _mask(source, f"{home}/weights")
            mask = own if mask is None else mask if own is None or own.shape != mask.shape else mask & own
        if len({part.shape[1:] for part in parts}) != 1:
            raise DataError(f"{source.path}: the chunks' frames have different sizes.")
        energy_keV = source.number("meta/energy", "info/energy")
        measurement = Measurement(
            path=source.path,
            frames=JoinedFrames(parts),
            positions_m=np.concatenate(positions),
            zero_frequency="centre",
            mask=mask,
            geometry=Geometry(
                energy_eV=None if not energy_keV else energy_keV * 1e3,
                distance_m=source.number("meta/distance", "info/distance") or None,
                detector_pixel_m=_pixel(source, "meta/psize", "info/psize"),
            ),
            notes=["Energy was taken to be keV, positions metres (y, x), as ptypy writes them."],
        )
    finite = np.isfinite(measurement.positions_m).all(axis=1)  # type: ignore[arg-type]
    if not finite.all():
        measurement.notes.append(f"{(~finite).sum()} frames without a position are left out.")
        measurement.frames = SubsetFrames(measurement.frames, np.flatnonzero(finite))
        measurement.positions_m = measurement.positions_m[finite]  # type: ignore[index]
    return measurement.scan(overrides)


@dataclass(frozen=True)
class Ptyr:
    """What a .ptyr holds of its first storage: probe (mode, y, x), object (y, x) on `grid`, positions in pixels."""

    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]
    grid: ObjectGrid
    positions_px: NDArray[np.float64] | None
    geometry: Geometry


def is_ptyr(contents: Contents) -> bool:
    """Whether the file has a .ptyr's storages."""
    return contents.is_hdf5 and any(name.startswith("content/obj/") for name in contents.arrays)


def read_ptyr(contents: Contents) -> Ptyr:
    """The reconstruction in a .ptyr. Raises DataError when it lacks probe, object or their pixel size."""
    with opened(contents) as source:
        home = {kind: f"content/{kind}/{_storage(source, kind)}" for kind in ("obj", "probe")}
        image, probe = (source.array(f"{home[kind]}/data", "c") for kind in ("obj", "probe"))
        if image.ndim != 3 or probe.ndim != 3:
            raise DataError(f"{source.path}: object {image.shape} and probe {probe.shape} must be (layer, y, x).")
        pixel = _pixel(source, f"{home['obj']}/_psize")
        origin = source.array(f"{home['obj']}/_origin").astype(np.float64).reshape(-1)
        if pixel is None or origin.shape != (2,) or not np.isfinite(origin).all():
            raise DataError(f"{source.path}: the object's _psize or _origin is missing or no pair of numbers.")
        name = source.first(f"content/positions/{_storage(source, 'obj')}")
        positions = None if name is None else source.array(name).astype(np.float64)
        energy_keV = source.number(f"{home['probe']}/_energy")
    return Ptyr(
        probe=probe.astype(np.complex64),
        object=image[0].astype(np.complex64),
        grid=ObjectGrid(shape=image.shape[1:], origin_px=(origin[0] / pixel[0], origin[1] / pixel[1])),
        positions_px=None if positions is None or positions.shape[1:] != (2,) else positions / np.asarray(pixel),
        geometry=Geometry(energy_eV=energy_keV * 1e3 if energy_keV else None, object_pixel_m=pixel),
    )


def _storage(source: HDF5Source, kind: str) -> str:
    names = [name for name in source.names(f"content/{kind}") if f"content/{kind}/{name}/data" in source]
    if not names:
        raise DataError(f"{source.path}: no storage in content/{kind}; not a complete .ptyr file.")
    return names[0]


def _chunk_positions(source: HDF5Source, home: str, n: int) -> NDArray[np.float64]:
    name = source.first(f"{home}/positions")
    if name is None:
        raise DataError(f"{source.path}: /{home} has no positions; name a file that has them as data.positions.")
    values = source.array(name).astype(np.float64)
    if values.shape != (n, 2):
        raise DataError(f"{source.path}: /{name} has shape {values.shape} for {n} frames; it must be (position, 2).")
    return values


def _mask(source: HDF5Source, name: str) -> NDArray[np.bool_] | None:
    if source.first(name) is None or len(source.shape(name)) not in (2, 3) or 0 in source.shape(name):
        return None
    weights: NDArray[Any] = source.array(name, "iufb")
    good = weights > 0
    return np.asarray(good if good.ndim == 2 else good.all(axis=0))


def _pixel(source: HDF5Source, *names: str) -> Pixel | None:
    name = source.first(*names)
    if name is None:
        return None
    values = source.array(name).astype(np.float64).reshape(-1)
    if values.size not in (1, 2) or not (np.isfinite(values).all() and (values > 0).all()):
        raise DataError(f"{source.path}: /{name} must be one or two positive lengths in metres.")
    return float(values[0]), float(values[-1])
