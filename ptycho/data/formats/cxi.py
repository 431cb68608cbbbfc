"""Coherent X-ray Imaging files (CXI 1.6, cxidb.org) and NeXus' NXcxi_ptycho, which keeps CXI's names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.cxi_geometry import DETECTOR, ENTRY, read_geometry, read_translations
from ptycho.data.formats.hdf5_frames import HDF5Frames
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.formats.product import grid_from_centre
from ptycho.data.geometry import Pixel
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan
from ptycho.errors import DataError

FRAMES = (f"{ENTRY}/data_1/data", f"{DETECTOR}/data")
PROBES = (f"{ENTRY}/image_1/data", f"{ENTRY}/instrument_1/source_1/illumination")
OBJECT = f"{ENTRY}/image_2/data"
EXTRAS = f"{ENTRY}/ptychodus"
MASK = f"{DETECTOR}/mask"
DARK = f"{DETECTOR}/data_dark"
# CXI_PIXEL_HAS_SIGNAL marks a good pixel; every other bit says what is wrong with one (CXI 1.6, table of mask bits).
HAS_SIGNAL = 0x1000


def matches(contents: Contents) -> bool:
    """Whether the file has CXI's version or its names."""
    names = contents.arrays.keys()
    return contents.is_hdf5 and ("cxi_version" in names or bool(names & {*FRAMES}))


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the file. Raises DataError when frames or positions are missing or do not fit."""
    with opened(contents) as source:
        return _measurement(source, overrides).scan(overrides)


def _measurement(source: HDF5Source, overrides: ReadOverrides) -> Measurement:
    name = source.first(*FRAMES)
    if name is None:
        raise DataError(
            f"{source.path}: a CXI file without frames (/{FRAMES[0]}); a result, not a scan. It contains:"
            f" {source.listing}. Give the file with the frames, and name this one as data.start."
        )
    dataset = source.check_frames(name)
    frames = HDF5Frames.of(source.path, dataset, "n" * (dataset.ndim - 2) + "yx")
    found = read_geometry(source)
    size = frames.shape[-1]
    positions = read_translations(source, found)
    notes = list(found.notes)
    probe = read_probe(source)
    measurement = Measurement(
        path=source.path,
        frames=frames,
        positions_m=positions,
        mask=_mask(source, notes),
        dark=_dark(source, frames.shape[1:]),
        beam_centre_px=found.beam_centre_px,
        geometry=found.geometry,
        zero_frequency="centre" if found.beam_centre_px is None and frames.shape[1] == size else None,
        name=source.text(f"{ENTRY}/sample_1/name") or None,
        probe=probe if probe is not None and probe.shape[-2:] == (size, size) else None,
        notes=notes,
        provenance={"title": source.text(f"{ENTRY}/title")} if source.text(f"{ENTRY}/title") else {},
    )
    image = read_object(source)
    if image is not None and positions is not None and measurement.probe is not None:
        geometry = overrides.geometry(found.geometry)
        if geometry.object_pixel(size) is not None:
            measurement.object_start = image
            measurement.object_grid = read_grid(source, image.shape, size)
    return measurement


def read_probe(source: HDF5Source) -> NDArray[np.complex64] | None:
    """The probe (mode, y, x) that ptychodus stores as (opr, mode, y, x), of its first variation; None without one."""
    name = source.first(*PROBES)
    if name is None or not 2 <= len(source.shape(name)) <= 4:
        return None
    if source.dataset(name).dtype.kind != "c":
        return None
    return as_modes(source.array(name, "c"), f"{source.path}: /{name}")


def read_object(source: HDF5Source) -> NDArray[np.complex64] | None:
    """The object (y, x) of one layer, or None."""
    if source.first(OBJECT) is None or source.dataset(OBJECT).dtype.kind != "c":
        return None
    shape = source.shape(OBJECT)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1):
        return None
    return source.array(OBJECT, "c").reshape(shape[-2:]).astype(np.complex64)


def object_pixel(source: HDF5Source) -> Pixel | None:
    """The object pixel (height, width) in metres that ptychodus stores, or None."""
    height, width = (source.number(f"{EXTRAS}/object_pixel_{side}_m") for side in ("height", "width"))
    return (height, width) if height and width else None


def read_grid(source: HDF5Source, shape: tuple[int, ...], size: int) -> ObjectGrid | None:
    """The grid of an object that ptychodus wrote, in object pixels; None when its pixel or centre is not there."""
    y, x = (source.number(f"{EXTRAS}/object_center_{axis}_m") for axis in "yx")
    pixel = object_pixel(source)
    if y is None or x is None or pixel is None:
        return None
    return grid_from_centre((shape[0], shape[1]), (y, x), size, pixel)


def _mask(source: HDF5Source, notes: list[str]) -> NDArray[np.bool_] | None:
    name = source.first(MASK)
    if name is None:
        return None
    values = source.array(name, "iub")
    if values.ndim == 3:
        # One mask for each frame: a pixel that is bad in any of them is not used in any.
        values = np.bitwise_or.reduce(values.astype(np.int64), axis=0)
        notes.append("The file has a mask for each frame: pixels that are bad in any frame are masked in all.")
    good = (values.astype(np.int64) & ~HAS_SIGNAL) == 0
    bits = sorted({int(value) for value in np.unique(values[~good])})[:4]
    notes.append(f"{(~good).sum()} pixels are masked" + (f" (mask bits {', '.join(map(hex, bits))})." if bits else "."))
    return np.asarray(good)


def _dark(source: HDF5Source, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The dark signal (y, x), the mean where the file has several dark frames; None without one."""
    if source.first(DARK) is None:
        return None
    values = source.array(DARK)
    if values.ndim == 3 and len(values):
        values = values.mean(axis=0, dtype=np.float64)
    if values.shape != shape:
        raise DataError(f"{source.path}: /{DARK} has shape {source.shape(DARK)}; the frames have {shape}.")
    return values.astype(np.float32)
