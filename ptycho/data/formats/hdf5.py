"""Our own scan layout: one HDF5 file, described in docs/data-formats.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.hdf5_frames import HDF5Frames
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.frames import CheckedFrames, FrameSummary, blocks, check_frames
from ptycho.data.geometry import Geometry, metres_to_px
from ptycho.data.grid import ObjectGrid
from ptycho.data.hdf5_writer import NewHDF5, new_hdf5
from ptycho.data.scan import Scan, Truth
from ptycho.errors import DataError

FORMAT = "ptychopinn-scan"
VERSION = 1
# On the Siemens star's frames a fifth smaller than bitshuffle with LZ4; reading costs a few µs more per frame.
COMPRESSION = hdf5plugin.Bitshuffle(nelems=16384, cname="zstd", clevel=3)
GEOMETRY_SCALARS = ("energy_eV", "distance_m", "focus_distance_m")
GEOMETRY_PIXELS = ("detector_pixel_m", "object_pixel_m")


def matches(contents: Contents) -> bool:
    """Whether the file says that it has our layout."""
    return contents.attributes.get("format") == FORMAT


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the file. Raises DataError when something is missing or of the wrong kind."""
    path = contents.path
    version = contents.attributes.get("version")
    if version != VERSION:
        raise DataError(f"{path}: layout version {version}; this program reads version {VERSION}. Install a newer one.")
    for name in ("diffraction", "positions"):
        if name not in contents.arrays:
            raise DataError(f"{path} has no dataset /{name}. It contains: {contents.listing}. Convert it again.")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return _read_scan(path, file, overrides)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged or not as documented ({error}); convert or copy it again.") from error


def write_scan(scan: Scan, path: Path) -> FrameSummary:
    """Write the scan in our layout, frame block by frame block; the file appears whole or not at all.

    Every frame is read twice: once to check it and to find the smallest type that holds the counts, once to write it.
    Raises DataError before anything is written when a frame is unreadable or impossible, WorkError when the disk
    refuses the file.
    """
    summary = check_frames(scan)
    with new_hdf5(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["name"] = scan.name
        _write_frames(file, scan, count_type(summary, scan.frames.dtype))
        file["positions"] = scan.positions_px
        file["positions"].attrs.update(units="px", axes="position, (y, x)")
        if scan.mask is not None:
            file["mask"] = scan.mask
            file["mask"].attrs["meaning"] = "True where the detector pixel is good"
        if scan.probe is not None:
            file["probe"] = scan.probe
            file["probe"].attrs["axes"] = "mode, y, x"
        _write_geometry(file, scan.geometry)
        _write_object(file, scan)
        if scan.truth is not None:
            _write_truth(file.create_group("truth"), scan.truth)
        file["provenance"] = json.dumps(scan.provenance)
        file["assumptions"] = np.array(scan.assumptions, dtype=h5py.string_dtype())
    return summary


def count_type(summary: FrameSummary, stored: np.dtype[np.generic]) -> np.dtype[Any]:
    """The smallest unsigned type that holds every count; the stored type where counts are not whole."""
    if not summary.whole or summary.largest >= 2**53:
        return stored
    return np.min_scalar_type(int(summary.largest))


def _write_frames(file: NewHDF5, scan: Scan, dtype: np.dtype[Any]) -> None:
    n, height, width = scan.frames.shape
    dataset = file.create_dataset("diffraction", (n, height, width), dtype, chunks=(1, height, width), **COMPRESSION)
    dataset.attrs.update(units="counts", axes="position, y, x", zero_frequency="index N // 2 on both axes")
    for indices in blocks(scan.frames):
        dataset[indices[0] : indices[-1] + 1] = scan.frames.read(indices).astype(dtype)
        file.check_disk()


def _write_geometry(file: NewHDF5, geometry: Geometry) -> None:
    group = file.create_group("geometry")
    for name in (*GEOMETRY_SCALARS, *GEOMETRY_PIXELS):
        value = getattr(geometry, name)
        if value is not None:
            group.attrs[name] = value


def _write_object(file: NewHDF5, scan: Scan) -> None:
    if scan.object_grid is None:
        return
    grid = file.create_group("object_grid")
    grid.attrs.update(shape=scan.object_grid.shape, origin_px=scan.object_grid.origin_px)
    if scan.object_start is not None:
        file["object"] = scan.object_start


def _write_truth(group: h5py.Group, truth: Truth) -> None:
    group["object"] = truth.object
    group["object"].attrs["origin_px"] = truth.grid.origin_px
    if truth.probe is not None:
        group["probe"] = truth.probe
    if truth.positions_px is not None:
        group["positions"] = truth.positions_px
    if truth.slices is not None:
        group["slices"] = truth.slices
    if truth.intensity is not None:
        group["intensity"] = truth.intensity


def _read_scan(path: Path, file: h5py.File, overrides: ReadOverrides) -> Scan:
    mask = _read_mask(path, file)
    frames = HDF5Frames.of(path, file["diffraction"])
    geometry = overrides.geometry(_read_geometry(file))
    grid = file["object_grid"].attrs if "object_grid" in file else None
    return Scan(
        name=str(file.attrs.get("name", path.stem)),
        path=path,
        frames=CheckedFrames(frames, str(path), mask),
        positions_px=_read_positions(path, file["positions"], geometry, frames.shape[-1]),
        probe=_array(file, "probe", np.complex64),
        mask=mask,
        geometry=geometry,
        object_start=_array(file, "object", np.complex64),
        object_grid=None if grid is None else _grid(grid["shape"], grid["origin_px"]),
        truth=_read_truth(file["truth"]) if "truth" in file else None,
        assumptions=tuple(file["assumptions"].asstr()[()]) if "assumptions" in file else (),
        provenance=json.loads(file["provenance"].asstr()[()]) if "provenance" in file else {},
    )


def _read_positions(path: Path, dataset: h5py.Dataset, geometry: Geometry, patch_size: int) -> NDArray[np.float64]:
    units = dataset.attrs.get("units")
    if units not in ("px", "m"):
        raise DataError(
            f'{path}: /positions has units = {units!r}; it must be "px" (object pixels) or "m". Set the attribute.'
        )
    positions: NDArray[np.float64] = dataset[()].astype(np.float64)
    return positions if units == "px" else metres_to_px(positions, geometry, patch_size)


def _read_mask(path: Path, file: h5py.File) -> NDArray[np.bool_] | None:
    if "mask" not in file:
        return None
    mask = file["mask"][()]
    if mask.dtype != np.bool_:
        raise DataError(f"{path}: /mask has type {mask.dtype}; it must be bool, True where the pixel is good.")
    return np.asarray(mask)


def _read_geometry(file: h5py.File) -> Geometry:
    found = dict(file["geometry"].attrs) if "geometry" in file else {}
    scalars = {name: float(found[name]) for name in GEOMETRY_SCALARS if name in found}
    pixels = {name: (float(found[name][0]), float(found[name][1])) for name in GEOMETRY_PIXELS if name in found}
    return Geometry(**scalars, **pixels)  # type: ignore[arg-type]


def _read_truth(group: h5py.Group) -> Truth:
    image = group["object"][()].astype(np.complex64)
    return Truth(
        object=image,
        grid=_grid(image.shape, group["object"].attrs["origin_px"]),
        probe=_array(group, "probe", np.complex64),
        positions_px=_array(group, "positions", np.float64),
        slices=_array(group, "slices", np.complex64),
        intensity=_array(group, "intensity", np.float64),
    )


def _grid(shape: Any, origin_px: Any) -> ObjectGrid:
    return ObjectGrid(shape=(int(shape[0]), int(shape[1])), origin_px=(float(origin_px[0]), float(origin_px[1])))


def _array(group: h5py.Group, name: str, dtype: type[np.generic]) -> Any:
    return group[name][()].astype(dtype) if name in group else None
