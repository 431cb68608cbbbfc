"""An object image on its grid, with the probe that lit it: what one stage hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.grid import ObjectGrid
from ptycho.data.hdf5_writer import new_hdf5
from ptycho.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ObjectImage:
    """A reconstructed object.

    object:   (y, x) complex64 transmission on `grid`
    coverage: (y, x) float32, summed weight of the light that each pixel saw; 0 where nothing was measured
    probe:    (mode, y, x) complex64, sqrt(photons), or None when the stage did not touch it
    per_frame: named values of each frame, (position,), such as "confidence"
    """

    object: NDArray[np.complex64]
    coverage: NDArray[np.float32]
    grid: ObjectGrid
    probe: NDArray[np.complex64] | None = None
    per_frame: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def write_image(image: ObjectImage, path: Path) -> None:
    """Write the image as HDF5, whole or not at all. Raises WorkError when the disk refuses it."""
    with new_hdf5(path) as file:
        file["object"] = image.object
        file["coverage"] = image.coverage
        file["object"].attrs["origin_px"] = image.grid.origin_px
        if image.probe is not None:
            file["probe"] = image.probe
        for name, values in image.per_frame.items():
            file[f"per_frame/{name}"] = values


def read_image(path: Path) -> ObjectImage:
    """Read what `write_image` wrote. Raises DataError when the file is missing or something else."""
    try:
        with h5py.File(path, "r") as file:
            array = file["object"][()].astype(np.complex64)
            origin = file["object"].attrs["origin_px"]
            return ObjectImage(
                object=array,
                coverage=file["coverage"][()].astype(np.float32),
                grid=ObjectGrid(shape=array.shape, origin_px=(float(origin[0]), float(origin[1]))),
                probe=file["probe"][()].astype(np.complex64) if "probe" in file else None,
                per_frame={name: values[()] for name, values in file.get("per_frame", {}).items()},
            )
    except (OSError, KeyError) as error:
        raise DataError(f"{path} holds no object image ({error}); resume the run so that it is made again.") from error


def cut_to(image: ObjectImage, grid: ObjectGrid) -> NDArray[np.complex64]:
    """The object (y, x) complex64 on another grid, whole pixels away; 1, vacuum, where the image does not reach.

    Raises ValueError when the grids are a part of a pixel apart, which only resampling could bridge.
    """
    offset = np.subtract(image.grid.origin_px, grid.origin_px)
    top, left = np.rint(offset).astype(int)
    if np.abs(offset - (top, left)).max() > 1e-6:
        raise ValueError(f"the grids are {offset} pixels apart; only whole pixels can be cut without resampling")
    result = np.ones(grid.shape, np.complex64)
    height, width = image.object.shape
    rows, columns = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
    there = result[rows, columns]
    there[:] = image.object[max(-top, 0) :, max(-left, 0) :][: there.shape[0], : there.shape[1]]
    return result
