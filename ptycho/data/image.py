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
