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
from ptycho.data.formats.hdf5_source import HDF5Source, opened
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
    with opened(contents) as source:
        return _read_scan(source, overrides)


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


def _read_scan(source: HDF5Source, overrides: ReadOverrides) -> Scan:
    path = source.path
    mask = _read_mask(source)
    frames = HDF5Frames.of(path, source.check_frames("diffraction"))
    geometry = overrides.geometry(_read_geometry(source))
    return Scan(
        name=str(source.attribute("/", "name") or path.stem),
        path=path,
        frames=CheckedFrames(frames, str(path), mask),
        positions_px=_read_positions(source, geometry, frames.shape),
        probe=_images(source, "probe", 3),
        mask=mask,
        geometry=geometry,
        object_start=_images(source, "object", 2),
        object_grid=_grid(source, source.attribute("object_grid", "shape"), "object_grid")
        if "object_grid" in source
        else None,
        truth=_read_truth(source) if "truth" in source else None,
        assumptions=source.texts("assumptions"),
        provenance=_read_provenance(source),
    )


def _read_positions(source: HDF5Source, geometry: Geometry, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    units = source.units("positions")
    if units not in ("px", "m"):
        raise DataError(
            f'{source.path}: /positions has units = {units!r}; it must be "px" (object pixels) or "m".'
            " Set the attribute."
        )
    positions: NDArray[np.float64] = source.array("positions").astype(np.float64)
    if shape[0] and positions.shape != (shape[0], 2):
        raise DataError(
            f"{source.path}: {shape[0]} frames but positions of shape {positions.shape}; one (y, x) per frame is needed"
        )
    return positions if units == "px" else metres_to_px(positions, geometry, shape[-1])


def _read_mask(source: HDF5Source) -> NDArray[np.bool_] | None:
    if "mask" not in source:
        return None
    if source.dataset("mask").dtype != np.bool_:
        raise DataError(
            f"{source.path}: /mask has type {source.dataset('mask').dtype}; it must be bool, True where the pixel is"
            " good."
        )
    return np.asarray(source.array("mask", "b"))


def _read_geometry(source: HDF5Source) -> Geometry:
    found: dict[str, Any] = {}
    for name in (*GEOMETRY_SCALARS, *GEOMETRY_PIXELS):
        value = source.attribute("geometry", name)
        if value is None:
            continue
        numbers = _numbers(source, value, f"geometry@{name}", 2 if name in GEOMETRY_PIXELS else 1)
        found[name] = numbers if name in GEOMETRY_PIXELS else numbers[0]
    return Geometry(**found)


def _read_truth(source: HDF5Source) -> Truth:
    image = _images(source, "truth/object", 2)
    if image is None:
        raise DataError(f"{source.path}: /truth has no object.")
    return Truth(
        object=image,
        grid=_grid(source, image.shape, "truth/object"),
        probe=_images(source, "truth/probe", 3),
        positions_px=source.array("truth/positions").astype(np.float64) if "truth/positions" in source else None,
        slices=_images(source, "truth/slices", 3),
        intensity=source.array("truth/intensity").astype(np.float64) if "truth/intensity" in source else None,
    )


def _read_provenance(source: HDF5Source) -> dict[str, object]:
    try:
        found = json.loads(source.text("provenance") or "{}")
    except ValueError as error:
        raise DataError(f"{source.path}: /provenance is not JSON ({error}); remove it or write it again.") from error
    return found if isinstance(found, dict) else {}


def _grid(source: HDF5Source, shape: Any, owner: str) -> ObjectGrid:
    """The grid whose shape is given and whose origin is an attribute of `owner`."""
    height, width = _numbers(source, shape, f"{owner}@shape", 2)
    y, x = _numbers(source, source.attribute(owner, "origin_px"), f"{owner}@origin_px", 2)
    return ObjectGrid(shape=(int(height), int(width)), origin_px=(y, x))


def _images(source: HDF5Source, name: str, n_axes: int) -> NDArray[np.complex64] | None:
    if name not in source:
        return None
    images = source.array(name, "ciuf")
    if images.ndim != n_axes:
        raise DataError(f"{source.path}: /{name} has shape {images.shape}; it must have {n_axes} axes.")
    return images.astype(np.complex64)


def _numbers(source: HDF5Source, value: Any, what: str, n: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in np.asarray(value).reshape(-1))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != n or not np.isfinite(numbers).all():
        raise DataError(f"{source.path}: {what} = {value!r} must be {n} finite number{'s' if n > 1 else ''}.")
    return numbers
