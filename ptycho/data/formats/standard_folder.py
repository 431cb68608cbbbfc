"""The standard folder of ptychodus as a scan: frames in diffraction.h5, the rest in product.h5 beside it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.hdf5_frames import HDF5Frames
from ptycho.data.formats.product import Product, read_product
from ptycho.data.frames import CheckedFrames
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Frames, Scan
from ptycho.data.subset import SubsetFrames
from ptycho.errors import DataError

DIFFRACTION, PRODUCT = "diffraction.h5", "product.h5"


def is_standard_folder(directory: Path) -> bool:
    """Whether both files are there."""
    return (directory / DIFFRACTION).is_file() and (directory / PRODUCT).is_file()


def read_standard_folder(directory: Path) -> Scan:
    """The scan of both files, its frames left in diffraction.h5; frames and positions are matched by their indexes.

    Positions are in object pixels from the centre of the product's pixel (0, 0). Raises DataError when a file is
    missing, damaged or of another kind, or when no index is in both.
    """
    path = directory / DIFFRACTION
    frames, indexes, mask = _read_diffraction(path)
    product = read_product(directory / PRODUCT)
    if product.object.ndim != 2 or product.probe.ndim != 3:
        raise DataError(
            f"{directory / PRODUCT}: the object has shape {product.object.shape} and the probe {product.probe.shape};"
            " one layer and one orthogonal probe relaxation component are expected."
        )
    rows, kept = _matched(indexes, product)
    if not len(rows):
        raise DataError(
            f"{directory}: no index of {PRODUCT} is in {DIFFRACTION}; the two files do not belong together."
        )
    return Scan(
        name=product.name or directory.name,
        path=path,
        frames=CheckedFrames(SubsetFrames(frames, rows), str(path), mask),
        positions_px=(product.positions_px - product.grid.origin_px)[kept],
        probe=product.probe.astype(np.complex64),
        mask=mask,
        geometry=product.geometry,
        object_start=product.object.astype(np.complex64),
        object_grid=ObjectGrid(shape=product.grid.shape),
        assumptions=(f"Frames from {DIFFRACTION}; probe, object and positions from {PRODUCT}.",),
    )


def _read_diffraction(path: Path) -> tuple[Frames, NDArray[np.int64], NDArray[np.bool_] | None]:
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            frames = HDF5Frames.of(path, file["patterns"])
            indexes = file["indexes"][()].astype(np.int64).reshape(-1)
            bad = file["bad_pixels"][()].astype(bool) if "bad_pixels" in file else None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read as diffraction data of ptychodus, which has patterns, indexes and bad_pixels"
            f" ({error}). Write it again."
        ) from error
    if len(indexes) != frames.shape[0] or (bad is not None and bad.shape != frames.shape[1:]):
        raise DataError(f"{path}: patterns, indexes and bad_pixels do not fit each other. Write it again.")
    return frames, indexes, None if bad is None or not bad.any() else ~bad


def _matched(indexes: NDArray[np.int64], product: Product) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the frames and of the positions that have the same index, in the positions' order."""
    wanted = np.arange(len(product.positions_px)) if product.indexes is None else product.indexes
    order = np.argsort(indexes, kind="stable")
    place = np.searchsorted(indexes[order], wanted).clip(max=len(order) - 1)
    kept = np.flatnonzero(indexes[order][place] == wanted)
    return order[place][kept], kept
