"""The files of ptychodus 1.x that hold frames: diffraction.h5 and .npz with their product, and training_data.h5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.hdf5_frames import HDF5Frames
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.npz_archive import NpzArchive, NpzFrames
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.formats.product import Product, is_product, read_product
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Frames, Scan
from ptycho.data.subset import SubsetFrames
from ptycho.errors import DataError

PRODUCTS = ("product.h5", "product.hdf5", "product.npz", "product.cxi")
FRAMES = ("diffraction.h5", "diffraction.npz")


def matches(contents: Contents) -> bool:
    """Whether the file has ptychodus' array of patterns."""
    names = contents.arrays.keys()
    if contents.archive is not None:
        return {"patterns", "indexes"} <= names
    return contents.is_hdf5 and "patterns" in names and bool({"indexes", "probe_position_x_px"} & names)


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the file.

    training_data.h5 is complete in itself. Frames of diffraction.h5 are joined by their indexes with the positions of
    the product that lies beside it, or that `positions` names.
    """
    if contents.archive is not None:
        return _read_npz(contents, contents.archive, overrides)
    with opened(contents) as source:
        dataset = source.check_frames("patterns")
        frames = HDF5Frames.of(contents.path, dataset)
        bad = source.array("bad_pixels", "b") if "bad_pixels" in source else None
        if source.first("probe_position_x_px") is not None:
            return _training_data(source, frames, bad).scan(overrides)
        sides = [source.number_attribute("patterns", f"detector_pixel_{side}_m") for side in ("height", "width")]
        indexes = source.array("indexes", "iu").astype(np.int64)
    detector = None if sides[0] is None or sides[1] is None else (sides[0], sides[1])
    return _joined(contents, frames, bad, indexes, Geometry(detector_pixel_m=detector), overrides)


def may_lie_beside(path: Path) -> list[Path]:
    """Where the product of a file with frames may lie, and the frames of a product."""
    return [*_products_of(path), *_frames_of(path)]


def product_beside(path: Path) -> Path | None:
    """The product in the same folder as a file with frames, or None."""
    return next((place for place in _products_of(path) if place.is_file() and place != path), None)


def _products_of(path: Path) -> list[Path]:
    own = [path.name.replace("diffraction", "product", 1)] if "diffraction" in path.name else []
    return [path.parent / name for name in (*own, *PRODUCTS)]


def _frames_of(path: Path) -> list[Path]:
    own = [path.name.replace("product", "diffraction", 1)] if "product" in path.name else []
    return [path.parent / name for name in (*own, *FRAMES)]


def _read_npz(contents: Contents, archive: NpzArchive, overrides: ReadOverrides) -> Scan:
    header = archive.headers["patterns"]
    if len(header.shape) != 3 or header.dtype.kind not in "iuf":
        raise DataError(f"{contents.path}: patterns have shape {header.shape}; they must be (position, y, x).")
    indexes = archive.load("indexes").astype(np.int64).reshape(-1)
    bad = archive.load("bad_pixels").astype(bool) if "bad_pixels" in archive.headers else None
    return _joined(contents, NpzFrames(archive, "patterns"), bad, indexes, Geometry(), overrides)


def _training_data(source: HDF5Source, frames: Frames, bad: NDArray[Any] | None) -> Measurement:
    image = source.array("object", "c").astype(np.complex64) if "object" in source else None
    if image is not None and (image.ndim > 3 or (image.ndim == 3 and len(image) != 1)):
        image = None
    if image is not None:
        image = image[0] if image.ndim == 3 else image
    probe = as_modes(source.array("probe", "c"), f"{source.path}: /probe") if "probe" in source else None
    pixel = [source.number(f"object_pixel_{side}_m") for side in ("height", "width")]
    columns = [source.array(f"probe_position_{axis}_px").astype(np.float64).reshape(-1) for axis in "yx"]
    if len(columns[0]) != len(columns[1]):
        raise DataError(f"{source.path}: {len(columns[0])} positions y, but {len(columns[1])} x.")
    return Measurement(
        path=source.path,
        frames=frames,
        positions_px=np.stack(columns, axis=1),
        middle=True,
        zero_frequency="centre",
        mask=None if bad is None else ~bad,
        geometry=Geometry(
            energy_eV=source.number("photon_energy_eV"),
            distance_m=source.number("detector_object_distance_m"),
            object_pixel_m=(pixel[0], pixel[1]) if pixel[0] and pixel[1] else None,
        ),
        probe=probe,
        object_start=image,
        object_grid=None if image is None else ObjectGrid(shape=image.shape[-2:]),
        notes=["Positions count pixels of the file's object, from the centre of its first one."],
    )


def _joined(
    contents: Contents,
    frames: Frames,
    bad: NDArray[Any] | None,
    indexes: NDArray[np.int64],
    geometry: Geometry,
    overrides: ReadOverrides,
) -> Scan:
    measurement = Measurement(
        path=contents.path,
        frames=frames,
        mask=None if bad is None else ~bad,
        geometry=geometry,
        zero_frequency="centre" if frames.shape[1] == frames.shape[2] else None,
    )
    beside = overrides.positions or product_beside(contents.path)
    if overrides.positions is not None and not is_product(overrides.positions):
        return measurement.scan(overrides)
    if beside is None:
        raise DataError(
            f"{contents.path}: holds frames but no positions, and no product.h5 lies beside it. Name the product:"
            ' positions = "product.h5".'
        )
    if len(indexes) != frames.shape[0]:
        raise DataError(f"{contents.path}: {frames.shape[0]} patterns but {len(indexes)} indexes.")
    _add_product(measurement, read_product(beside), beside, indexes)
    return measurement.scan(replace(overrides, positions=None))


def _add_product(measurement: Measurement, product: Product, path: Path, indexes: NDArray[np.int64]) -> None:
    own = np.arange(len(product.positions_px)) if product.indexes is None else np.asarray(product.indexes)
    for name, values in ((measurement.path, indexes), (path, own)):
        if len(np.unique(values)) != len(values):
            raise DataError(f"{name}: some indexes occur twice, so frames and positions cannot be joined by them.")
    _, of_frames, of_positions = np.intersect1d(indexes, own, return_indices=True)
    order = np.argsort(of_frames, kind="stable")
    of_frames, of_positions = of_frames[order], of_positions[order]
    if not len(of_frames):
        raise DataError(
            f"{path}: none of its indexes is one of {measurement.path.name}'s; they are of different scans."
        )
    n, m = len(indexes), len(own)
    measurement.notes.append(
        f"Positions, probe and object come from {path.name}, joined by their indexes"
        + (f": {len(of_frames)} of {n} frames and {m} positions have a partner." if len(of_frames) < max(n, m) else ".")
    )
    if len(of_frames) < n or (of_frames != np.arange(n)).any():
        measurement.frames = SubsetFrames(measurement.frames, of_frames.astype(np.int64))
    known = product.geometry
    measurement.geometry = Geometry(
        energy_eV=known.energy_eV,
        distance_m=known.distance_m,
        detector_pixel_m=measurement.geometry.detector_pixel_m,
        object_pixel_m=known.object_pixel_m,
    )
    measurement.positions_px = product.positions_px[of_positions]
    probe = as_modes(product.probe, f"{path}: probe")
    if product.probe.ndim == 4 and len(product.probe) > 1:
        measurement.notes.append("Of the probe's variations from frame to frame only the mean one is used.")
    if probe.shape[-1] == measurement.frames.shape[-1]:
        measurement.probe = probe
    if product.object.ndim == 2:
        measurement.object_start = product.object.astype(np.complex64)
        measurement.object_grid = product.grid
    else:
        measurement.notes.append(f"The product's object has {len(product.object)} layers and is not used.")


def read_beside_product(contents: Contents, overrides: ReadOverrides) -> Scan | None:
    """The scan of a product that has its frames in diffraction.h5 beside it; None where there is no such file."""
    place = _frames_beside(contents.path)
    return None if place is None else read(look_into(place), replace(overrides, positions=contents.path))


def has_frames_beside(path: Path) -> bool:
    """Whether the frames of the product at this path lie in the same folder."""
    return _frames_beside(path) is not None


def _frames_beside(path: Path) -> Path | None:
    places = (place for place in _frames_of(path) if place.is_file() and place != path)
    return next((place for place in places if matches(look_into(place))), None)
