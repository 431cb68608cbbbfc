"""A reconstruction to start from: probe and object of a product, a ptypy .ptyr, a CXI result, or a MATLAB result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats import cxi, ptypy
from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.cxi_geometry import read_geometry, read_translations
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.npy import read_array
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.formats.product import REQUIRED, read_product
from ptycho.data.formats.ptychodus import has_frames_beside
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan
from ptycho.errors import DataError

# Positions of the same scan may have been corrected; by more than this, on average, they are of another one.
SAME_SCAN_PX = 4.0
MATLAB_PROBES = ("probe", "probes", "prb")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a file offers.

    probe:        (mode, y, x)
    object:       (y, x) on `grid`, or None
    positions_px: (position, 2) of the windows in the grid's coordinates, or None
    """

    probe: NDArray[np.complex64]
    object: NDArray[np.complex64] | None = None
    grid: ObjectGrid | None = None
    positions_px: NDArray[np.float64] | None = None
    geometry: Geometry = field(default_factory=Geometry)
    notes: tuple[str, ...] = ()


def start_in(path: Path) -> Start | None:
    """The reconstruction in the file; None when it is a scan: it has frames, or they lie beside it."""
    return read_start(path) if _is_start(look_into(path)) else None


def _is_start(contents: Contents) -> bool:
    names = contents.arrays.keys()
    if set(REQUIRED) <= names:
        return not has_frames_beside(contents.path)
    if ptypy.is_ptyr(contents):
        return True
    return contents.is_hdf5 and "entry_1/image_1/data" in names and not set(cxi.FRAMES) & names


def read_start(path: Path) -> Start:
    """The probe and, where it can be placed, the object of a reconstruction.

    Raises DataError when the file is none of those that are known.
    """
    contents = look_into(path)
    if contents.kind == "npy":
        probe = read_array(path)
        if probe.ndim not in (2, 3, 4) or probe.dtype.kind != "c":
            raise DataError(f"{path}: an array of shape {probe.shape} and type {probe.dtype} is no probe (mode, y, x).")
        return Start(probe=as_modes(probe, str(contents.path)))
    if set(REQUIRED) <= contents.arrays.keys():
        product = read_product(path)
        is_flat = product.object.ndim == 2
        return Start(
            probe=as_modes(product.probe, f"{path}: probe"),
            object=product.object.astype(np.complex64) if is_flat else None,
            grid=product.grid if is_flat else None,
            positions_px=product.positions_px,
            geometry=product.geometry,
            notes=() if is_flat else (f"Its object has {len(product.object)} layers and is not used.",),
        )
    if ptypy.is_ptyr(contents):
        ptyr = ptypy.read_ptyr(contents)
        return Start(
            probe=ptyr.probe, object=ptyr.object, grid=ptyr.grid, positions_px=ptyr.positions_px, geometry=ptyr.geometry
        )
    if contents.is_hdf5:
        with opened(contents) as source:
            if cxi.matches(contents) or "entry_1/image_1/data" in source:
                return _of_cxi(source)
            name = source.first(*MATLAB_PROBES)
            if name is not None:
                return _of_arrays(contents, source, name)
    raise DataError(
        f"{path}: no reconstruction that is known (ptychodus product, .ptyr, CXI, MATLAB 7.3 or NPY with a probe)."
        f" It contains: {contents.listing}."
    )


def with_start(scan: Scan, path: Path) -> Scan:
    """The scan with the probe and, where it fits, the object of a reconstruction as first guesses.

    The object is placed by the positions of the reconstruction: they must be those of the scan but for an offset.
    Raises DataError when the probe does not fit the frames.
    """
    start, size = read_start(path), scan.patch_size
    if start.probe.shape[-2:] != (size, size):
        raise DataError(
            f"{path}: its probe is {start.probe.shape[-2]} × {start.probe.shape[-1]}, the frames are {size} × {size};"
            " crop or bin the scan as it was for that reconstruction."
        )
    notes = [f"The first guess of the probe comes from {path.name}.", *start.notes]
    changes: dict[str, object] = {"probe": start.probe}
    if start.object is not None and start.grid is not None:
        offset, why = _offset(scan, start)
        if offset is None:
            notes.append(f"The object in {path.name} is not used: {why}.")
        else:
            origin = (start.grid.origin_px[0] + offset[0], start.grid.origin_px[1] + offset[1])
            changes |= {"object_start": start.object, "object_grid": replace(start.grid, origin_px=origin)}
            notes.append(f"The first guess of the object comes from {path.name}, placed by its positions.")
    return replace(scan, assumptions=(*scan.assumptions, *notes), **changes)  # type: ignore[arg-type]


def _offset(scan: Scan, start: Start) -> tuple[tuple[float, float] | None, str]:
    """What to add to the reconstruction's coordinates to get the scan's."""
    if start.positions_px is None:
        return None, "the file has no positions to place it by"
    if len(start.positions_px) != scan.n_positions:
        return None, f"it has {len(start.positions_px)} positions, the scan {scan.n_positions}"
    pixels = [known.object_pixel(scan.patch_size) for known in (scan.geometry, start.geometry)]
    if pixels[0] and pixels[1] and not np.allclose(pixels[0], pixels[1], rtol=2e-3):
        return None, f"its pixels are {pixels[1][0]:.4g} m, the scan's {pixels[0][0]:.4g} m"
    difference = scan.positions_px - start.positions_px
    offset = np.median(difference, axis=0)
    apart = float(np.linalg.norm(difference - offset, axis=1).mean())
    if apart > SAME_SCAN_PX:
        return None, f"its positions differ from the scan's by {apart:.3g} px on average"
    return (float(offset[0]), float(offset[1])), ""


def _of_cxi(source: HDF5Source) -> Start:
    probe = cxi.read_probe(source)
    if probe is None:
        raise DataError(f"{source.path}: a CXI file without a probe in entry_1/image_1/data.")
    image, size = cxi.read_object(source), probe.shape[-1]
    grid = None if image is None else cxi.read_grid(source, image.shape, size)
    found = read_geometry(source)
    moved = read_translations(source, found)
    pixel = cxi.object_pixel(source)
    return Start(
        probe=probe,
        object=image,
        grid=grid,
        positions_px=None if moved is None or pixel is None else moved / np.asarray(pixel),
        geometry=Geometry(object_pixel_m=pixel),
    )


def _of_arrays(contents: Contents, source: HDF5Source, name: str) -> Start:
    probe = source.array(name, "c")
    if not 2 <= probe.ndim <= 4 or probe.shape[-1] != probe.shape[-2]:
        raise DataError(f"{source.path}: /{name} has shape {probe.shape}; a probe has (mode, y, x).")
    if contents.kind == "matlab":
        probe = probe.swapaxes(-2, -1)
    return Start(probe=as_modes(probe, str(contents.path)), notes=("Of this file only the probe is used.",))
