"""An object image on its grid, with the probe that lit it: what one stage hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.grid import ObjectGrid
from ptycho.data.hdf5_writer import new_hdf5
from ptycho.data.scan import Scan
from ptycho.errors import DataError

# What only some stages find; each under its own name in the file.
_OPTIONAL = ("slices", "slice_spacing_m", "positions_px", "background", "variations")


@dataclass(frozen=True, kw_only=True)
class ObjectImage:
    """A reconstructed object.

    object:   (y, x) complex64 transmission on `grid`
    coverage: (y, x) float32, summed weight of the light that each pixel saw; 0 where nothing was measured
    probe:    (mode, y, x) complex64, sqrt(photons), or None when the stage did not touch it
    slices:   (slice, y, x) complex64 of a thick object, upstream first; `object` is their product. None: a thin one
    slice_spacing_m: distance from one slice to the next
    per_frame: named values of each frame, (position, …), such as "confidence"
    positions_px: (position, 2) float64, where the stage moved frames to; None: as the scan records them
    background: (y, x) float32 counts that belong to no wave, as files store patterns, or None
    variations: (k, y, x) complex64 parts of the probe that change from frame to frame, by `per_frame["probe_shares"]`,
                (position, k); or None
    """

    object: NDArray[np.complex64]
    coverage: NDArray[np.float32]
    grid: ObjectGrid
    probe: NDArray[np.complex64] | None = None
    per_frame: dict[str, NDArray[Any]] = field(default_factory=dict)
    slices: NDArray[np.complex64] | None = None
    slice_spacing_m: float | None = None
    positions_px: NDArray[np.float64] | None = None
    background: NDArray[np.float32] | None = None
    variations: NDArray[np.complex64] | None = None

    def seen_by(self, scan: Scan) -> Scan:
        """The scan as this image explains it: on the image's grid, its frames where the image has moved them."""
        moved = scan.positions_px if self.positions_px is None else self.positions_px
        if self.grid == scan.grid and self.positions_px is None:
            return scan
        return replace(scan, positions_px=moved, object_grid=self.grid, object_start=None)

    def on(self, grid: ObjectGrid) -> ObjectImage:
        """The same image on another grid a whole number of pixels away: cropped, or surrounded by vacuum.

        Raises ValueError when the grids differ by a part of a pixel.
        """
        if grid == self.grid:
            return self
        offset = np.asarray(self.grid.origin_px) - np.asarray(grid.origin_px)
        start = np.rint(offset).astype(int)
        if np.abs(offset - start).max() > 1e-6:
            raise ValueError(f"the grids' origins differ by {offset} pixels, which is no whole number")
        rows, columns = (
            slice(max(0, low), max(0, min(size, low + own)))
            for low, own, size in zip(start, self.grid.shape, grid.shape, strict=True)
        )
        from_rows, from_columns = (
            slice(at.start - low, at.stop - low) for at, low in zip((rows, columns), start, strict=True)
        )

        def placed(values: NDArray[Any], outside: float) -> NDArray[Any]:
            result = np.full((*values.shape[:-2], *grid.shape), outside, values.dtype)
            result[..., rows, columns] = values[..., from_rows, from_columns]
            return result

        return replace(
            self,
            object=placed(self.object, 1),
            coverage=placed(self.coverage, 0),
            slices=None if self.slices is None else placed(self.slices, 1),
            grid=grid,
        )


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
        for name in _OPTIONAL:
            if getattr(image, name) is not None:
                file[name] = getattr(image, name)


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
                **{name: file[name][()] for name in _OPTIONAL if name in file},
            )
    except (OSError, KeyError) as error:
        raise DataError(f"{path} holds no object image ({error}); resume the run so that it is made again.") from error
