"""The product layout of ptychodus (releases up to 1.7): a reconstruction as one HDF5 file that other tools open.

ptychodus puts a position at index (N − 1) / 2 of its window and gives the object's centre, index (L − 1) / 2, in
metres; we put a position at index N // 2 and give the scan coordinate of the object's first pixel. Positions in metres
are the same in both; the half pixel of an even window goes into the object's centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.geometry import Geometry, Pixel
from ptycho.data.grid import ObjectGrid
from ptycho.data.hdf5_writer import new_hdf5
from ptycho.errors import DataError

REQUIRED = ("object", "probe", "probe_position_indexes", "probe_position_x_m", "probe_position_y_m")
OBJECT_ATTRIBUTES = ("center_x_m", "center_y_m", "pixel_width_m", "pixel_height_m")
SIZE_UNKNOWN = "pixel size unknown: lengths are in object pixels, not metres"


@dataclass(frozen=True, kw_only=True)
class Product:
    """A reconstruction.

    object:       (y, x) or (layer, y, x) complex on `grid`
    probe:        (mode, y, x) or (opr, mode, y, x) complex, sqrt(photons)
    positions_px: (position, 2) float64 (y, x), window centres at index N // 2
    indexes:      (position,) frame number of each position; None means 0, 1, 2, …
    losses:       one value per epoch
    extras:       further arrays to keep in the file under their names
    """

    name: str
    object: NDArray[np.complexfloating[Any, Any]]
    grid: ObjectGrid
    probe: NDArray[np.complexfloating[Any, Any]]
    positions_px: NDArray[np.float64]
    geometry: Geometry = field(default_factory=Geometry)
    indexes: NDArray[np.int64] | None = None
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    photons_per_frame: float = 0.0
    comments: str = ""
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def matches(contents: Contents) -> bool:
    """Whether the file has a product's arrays."""
    return contents.archive is None and {"object", "probe", "probe_position_x_m"} <= contents.arrays.keys()


def read(contents: Contents, overrides: ReadOverrides) -> NoReturn:
    """Always raises DataError: a product holds a result, not the frames it was made from."""
    raise DataError(
        f"{contents.path}: a ptychodus product holds object, probe and positions but no diffraction frames;"
        " give the file with the frames."
    )


def write_product(product: Product, path: Path) -> None:
    """Write the product; the file appears whole or not at all. Raises WorkError when the disk refuses it.

    Where the object pixel is unknown it is written as 1, and the comments say so; unknown energy and distance are 0.
    """
    size = product.probe.shape[-1]
    pixel = product.geometry.object_pixel(size)
    comments = product.comments
    if pixel is None:
        pixel = (1.0, 1.0)
        comments = f"{comments}; {SIZE_UNKNOWN}" if comments else SIZE_UNKNOWN
    positions_m = product.positions_px * pixel
    layers = product.object if product.object.ndim == 3 else product.object[None]
    with new_hdf5(path) as file:
        file.attrs.update(
            name=product.name,
            comments=comments,
            detector_object_distance_m=product.geometry.distance_m or 0.0,
            photon_energy_eV=product.geometry.energy_eV or 0.0,
            probe_photon_count=product.photons_per_frame,
            exposure_time_s=0.0,
            mass_attenuation_m2_per_kg=0.0,
            tomography_angle_deg=0.0,
            focus_object_distance_m=0.0,
            tilt_angle_deg=0.0,
            far_field=True,
        )
        file["probe"] = product.probe if product.probe.ndim == 4 else product.probe[None]
        file["probe"].attrs.update(pixel_width_m=pixel[1], pixel_height_m=pixel[0])
        file["object"] = layers
        centre_y, centre_x = _object_centre_m(product.grid, size, pixel)
        file["object"].attrs.update(
            center_x_m=centre_x, center_y_m=centre_y, pixel_width_m=pixel[1], pixel_height_m=pixel[0]
        )
        file["object_layer_spacing_m"] = np.zeros(len(layers) - 1)
        n = len(positions_m)
        file["probe_position_indexes"] = np.arange(n) if product.indexes is None else product.indexes
        file["probe_position_x_m"] = positions_m[:, 1]
        file["probe_position_y_m"] = positions_m[:, 0]
        file["loss_epochs"] = np.arange(len(product.losses))
        file["loss_values"] = np.asarray(product.losses, dtype=np.float64)
        for name, values in product.extras.items():
            file[name] = values


def read_product(path: Path) -> Product:
    """The product in a file, also of older releases (probe_energy_eV, costs). Raises DataError when it is not one."""
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            missing = [name for name in REQUIRED if name not in file]
            missing += [
                f"object@{name}" for name in OBJECT_ATTRIBUTES if "object" in file and name not in file["object"].attrs
            ]
            if missing:
                raise DataError(
                    f"{path} is no ptychodus product: it lacks {', '.join(missing)}."
                    f" It contains: {', '.join(sorted(file))}."
                )
            return _read_product(file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path.") from error
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a ptychodus product ({error}); copy or make it again.") from error


def _read_product(file: h5py.File) -> Product:
    known = {*REQUIRED, "object_layer_spacing_m", "object_layer_distance_m", "loss_epochs", "loss_values", "costs"}
    attributes, probe, image = file.attrs, file["probe"][()], file["object"][()]
    pixel: Pixel = (float(file["object"].attrs["pixel_height_m"]), float(file["object"].attrs["pixel_width_m"]))
    comments = str(attributes.get("comments", ""))
    positions_m = np.stack([file["probe_position_y_m"][()], file["probe_position_x_m"][()]], axis=1)
    losses = file.get("loss_values", file.get("costs"))
    centre = (float(file["object"].attrs["center_y_m"]), float(file["object"].attrs["center_x_m"]))
    return Product(
        name=str(attributes.get("name", "")),
        object=image[0] if image.ndim == 3 and len(image) == 1 else image,
        grid=_grid(image.shape[-2:], centre, probe.shape[-1], pixel),
        probe=probe[0] if probe.ndim == 4 and len(probe) == 1 else probe,
        positions_px=positions_m / np.asarray(pixel),
        geometry=Geometry(
            energy_eV=float(attributes.get("photon_energy_eV", attributes.get("probe_energy_eV", 0))) or None,
            distance_m=float(attributes.get("detector_object_distance_m", 0)) or None,
            object_pixel_m=None if SIZE_UNKNOWN in comments else pixel,
        ),
        indexes=file["probe_position_indexes"][()],
        losses=np.zeros(0) if losses is None else losses[()].astype(np.float64),
        photons_per_frame=float(attributes.get("probe_photon_count", 0.0)),
        comments=comments,
        extras={name: item[()] for name, item in file.items() if name not in known and isinstance(item, h5py.Dataset)},
    )


def _object_centre_m(grid: ObjectGrid, size: int, pixel: Pixel) -> tuple[float, float]:
    """(y, x) of the object's centre in ptychodus' frame."""
    half = size // 2 - (size - 1) / 2
    y, x = (
        (origin + (length - 1) / 2 + half) * length_m
        for origin, length, length_m in zip(grid.origin_px, grid.shape, pixel, strict=True)
    )
    return y, x


def _grid(shape: tuple[int, int], centre_m: tuple[float, float], size: int, pixel: Pixel) -> ObjectGrid:
    """Inverse of `_object_centre_m`."""
    half = size // 2 - (size - 1) / 2
    y, x = (c / p - (length - 1) / 2 - half for c, p, length in zip(centre_m, pixel, shape, strict=True))
    return ObjectGrid(shape=shape, origin_px=(y, x))
