"""The product layout of ptychodus (releases up to 1.7): a reconstruction as one HDF5 file that other tools open.

ptychodus puts a position at index (N − 1) / 2 of its window and gives the object's centre, index (L − 1) / 2, in
metres; we put a position at index N // 2 and give the scan coordinate of the object's first pixel. Positions in metres
are the same in both; the half pixel of an even window goes into the object's centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.npz_archive import NpzArchive
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.positions import is_text
from ptycho.data.geometry import Geometry, Pixel
from ptycho.data.grid import ObjectGrid
from ptycho.data.hdf5_writer import new_hdf5
from ptycho.data.scan import Scan
from ptycho.errors import DataError

REQUIRED = ("object", "probe", "probe_position_indexes", "probe_position_x_m", "probe_position_y_m")
OBJECT_ATTRIBUTES = ("center_x_m", "center_y_m", "pixel_width_m", "pixel_height_m")
METADATA_DEFAULTS = {
    "exposure_time_s": 0.0, "mass_attenuation_m2_per_kg": 0.0, "tomography_angle_deg": 0.0,
    "focus_object_distance_m": 0.0, "tilt_angle_deg": 0.0, "far_field": True,
}  # fmt: skip
METADATA = (*METADATA_DEFAULTS, "polarization")
# Names that an NPZ keeps as arrays although they are single values.
SINGLES = {*METADATA, "name", "comments", "detector_object_distance_m", "photon_energy_eV", "probe_photon_count"}
SINGLE_PREFIXES = ("probe_pixel_", "object_pixel_", "object_center_")
READ_ARRAYS = {
    *REQUIRED, "object_layer_spacing_m", "object_layer_distance_m", "loss_epochs", "loss_values", "costs",
}  # fmt: skip
SIZE_UNKNOWN = "pixel size unknown: lengths are in object pixels, not metres"


@dataclass(frozen=True, kw_only=True)
class Product:
    """A reconstruction.

    object:       (y, x) or (layer, y, x) complex on `grid`
    probe:        (mode, y, x) or (opr, mode, y, x) complex, sqrt(photons)
    positions_px: (position, 2) float64 (y, x), window centres at index N // 2
    indexes:      (position,) frame number of each position; None means 0, 1, 2, …
    losses:       one value per epoch; loss_epochs: their numbers, None means 0, 1, 2, …
    layer_spacing_m: (layer − 1,) distances between the object's layers
    metadata:     further single values that ptychodus keeps: exposure, tilt, polarization, …
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
    loss_epochs: NDArray[np.int64] | None = None
    layer_spacing_m: NDArray[np.float64] | None = None
    photons_per_frame: float = 0.0
    comments: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def matches(contents: Contents) -> bool:
    """Whether the file has a product's arrays."""
    return {"object", "probe", "probe_position_x_m"} <= contents.arrays.keys()


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan whose frames lie in diffraction.h5 beside the product.

    Raises DataError without such a file: a product holds a result, not the frames it was made from.
    """
    # The reader of the frames reads products, so it cannot be imported above.
    from ptycho.data.formats.ptychodus import read_beside_product

    scan = read_beside_product(contents, overrides)
    if scan is None:
        raise DataError(
            f"{contents.path}: a ptychodus product holds object, probe and positions but no diffraction frames, and no"
            " diffraction.h5 lies beside it; give the file with the frames."
        )
    return scan


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
            **{**METADATA_DEFAULTS, **product.metadata},
        )
        file["probe"] = product.probe if product.probe.ndim == 4 else product.probe[None]
        file["probe"].attrs.update(pixel_width_m=pixel[1], pixel_height_m=pixel[0])
        file["object"] = layers
        centre_y, centre_x = object_centre_m(product.grid, size, pixel)
        file["object"].attrs.update(
            center_x_m=centre_x, center_y_m=centre_y, pixel_width_m=pixel[1], pixel_height_m=pixel[0]
        )
        spacing = product.layer_spacing_m
        file["object_layer_spacing_m"] = np.zeros(len(layers) - 1) if spacing is None else spacing
        n = len(positions_m)
        file["probe_position_indexes"] = np.arange(n) if product.indexes is None else product.indexes
        file["probe_position_x_m"] = positions_m[:, 1]
        file["probe_position_y_m"] = positions_m[:, 0]
        epochs = product.loss_epochs
        file["loss_epochs"] = np.arange(len(product.losses)) if epochs is None else epochs
        file["loss_values"] = np.asarray(product.losses, dtype=np.float64)
        for name, values in product.extras.items():
            file[name] = values


def is_product(path: Path) -> bool:
    """Whether the file at this path is a product."""
    return path.is_file() and not is_text(path) and matches(look_into(path))


def read_product(path: Path) -> Product:
    """The product in an HDF5 or NPZ file, also of older releases (probe_energy_eV, costs).

    Raises DataError when it is not one.
    """
    contents = look_into(path)
    missing = [name for name in REQUIRED if name not in contents.arrays]
    if missing:
        raise DataError(
            f"{path} is no ptychodus product: it lacks {', '.join(missing)}. It contains: {contents.listing}."
        )
    if contents.archive is not None:
        return _read_product(contents, _NpzValues(contents.archive))
    if not contents.is_hdf5:
        raise DataError(f"{path}: cannot be read as a ptychodus product; products are HDF5 or NPZ.")
    with opened(contents) as source:
        return _read_product(contents, _HDF5Values(source))


class _HDF5Values:
    """A product's values in HDF5: arrays, and single values as attributes of what they belong to."""

    def __init__(self, source: HDF5Source) -> None:
        self._source = source

    def array(self, name: str, kinds: str = "iuf") -> NDArray[Any]:
        return self._source.array(name, kinds)

    def is_plain(self, name: str) -> bool:
        """Whether this is an array of numbers in the file's root."""
        return "/" not in name and self._source.dataset(name).dtype.kind in "iufcb"

    def single(self, name: str, owner: str = "/") -> Any:
        value = self._source.attribute(owner, name)
        return value.decode() if isinstance(value, bytes) else value


class _NpzValues:
    """A product's values in NPZ: all of them arrays, single ones named after what they belong to."""

    def __init__(self, archive: NpzArchive) -> None:
        self._archive = archive

    def array(self, name: str, kinds: str = "iuf") -> NDArray[Any]:
        values = self._archive.load(name, "iufcbSU")
        if values.dtype.kind not in kinds:
            raise DataError(f"{self._archive.path}: {name} has type {values.dtype}.")
        return values

    def is_plain(self, name: str) -> bool:
        """Whether this is an array of numbers."""
        return self._archive.headers[name].dtype.kind in "iufcb"

    def single(self, name: str, owner: str = "/") -> Any:
        key = name if owner == "/" else f"{owner}_{name}"
        header = self._archive.headers.get(key)
        return None if header is None or header.shape != () else self._archive.load(key, "iufcbSU").item()


def _read_product(contents: Contents, values: _HDF5Values | _NpzValues) -> Product:
    path, names = contents.path, contents.arrays
    probe, image = values.array("probe", "c"), values.array("object", "c")
    if not 2 <= probe.ndim <= 4 or not 2 <= image.ndim <= 3:
        raise DataError(f"{path}: probe of shape {probe.shape}, object of shape {image.shape}: no product has such.")
    sides = [_real(values.single(name, "object"), path, f"object@{name}") for name in OBJECT_ATTRIBUTES]
    centre_x, centre_y, width, height = (value if value is not None else 0.0 for value in sides)
    lacking = [name for name, value in zip(OBJECT_ATTRIBUTES, sides, strict=True) if value is None]
    if lacking or height <= 0 or width <= 0:
        raise DataError(f"{path} is no ptychodus product: its object lacks {', '.join(lacking) or 'a pixel size'}.")
    columns = [values.array(f"probe_position_{axis}_m").astype(np.float64).reshape(-1) for axis in "yx"]
    indexes = values.array("probe_position_indexes", "iu").astype(np.int64).reshape(-1)
    if len({len(columns[0]), len(columns[1]), len(indexes)}) != 1:
        raise DataError(f"{path}: positions y, x and their indexes differ in number.")
    comments = str(values.single("comments") or "")
    energy = _real(values.single("photon_energy_eV"), path, "photon_energy_eV")
    if energy is None:
        energy = _real(values.single("probe_energy_eV"), path, "probe_energy_eV")
    losses = next((name for name in ("loss_values", "costs") if name in names), None)
    known = {*READ_ARRAYS, *(name for name in names if name in SINGLES or name.startswith(SINGLE_PREFIXES))}
    pixel: Pixel = (height, width)
    return Product(
        name=str(values.single("name") or ""),
        object=image[0] if image.ndim == 3 and len(image) == 1 else image,
        grid=grid_from_centre(image.shape[-2:], (centre_y, centre_x), probe.shape[-1], pixel),
        probe=probe[0] if probe.ndim == 4 and len(probe) == 1 else probe,
        positions_px=np.stack(columns, axis=1) / np.asarray(pixel),
        geometry=Geometry(
            energy_eV=energy or None,
            distance_m=abs(_real(values.single("detector_object_distance_m"), path, "distance") or 0.0) or None,
            object_pixel_m=None if SIZE_UNKNOWN in comments else pixel,
        ),
        indexes=indexes,
        losses=np.zeros(0) if losses is None else values.array(losses).astype(np.float64),
        loss_epochs=values.array("loss_epochs") if "loss_epochs" in names else None,
        layer_spacing_m=values.array("object_layer_spacing_m") if "object_layer_spacing_m" in names else None,
        photons_per_frame=_real(values.single("probe_photon_count"), path, "probe_photon_count") or 0.0,
        comments=comments,
        metadata={name: values.single(name) for name in METADATA if values.single(name) is not None},
        extras={name: values.array(name, "iufcb") for name in names if name not in known and values.is_plain(name)},
    )


def _real(value: Any, path: Path, what: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {what} = {value!r} is not a number.") from error
    if not np.isfinite(number):
        raise DataError(f"{path}: {what} = {number} is not finite.")
    return number


def object_centre_m(grid: ObjectGrid, size: int, pixel: Pixel) -> tuple[float, float]:
    """(y, x) of the object's centre in ptychodus' frame."""
    half = size // 2 - (size - 1) / 2
    y, x = (
        (origin + (length - 1) / 2 + half) * length_m
        for origin, length, length_m in zip(grid.origin_px, grid.shape, pixel, strict=True)
    )
    return y, x


def grid_from_centre(shape: tuple[int, int], centre_m: tuple[float, float], size: int, pixel: Pixel) -> ObjectGrid:
    """The grid of an object whose centre (y, x) ptychodus gives in metres, for windows of `size` pixels."""
    half = size // 2 - (size - 1) / 2
    y, x = (c / p - (length - 1) / 2 - half for c, p, length in zip(centre_m, pixel, shape, strict=True))
    return ObjectGrid(shape=shape, origin_px=(y, x))
