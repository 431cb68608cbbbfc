"""HDF5 and MATLAB 7.3 files of no known layout, read by the names that a person gives; fold_slice's MATLAB arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.data_keys import DataKeys
from ptycho.data.formats.hdf5_frames import HDF5Frames
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.nexus import raster_positions
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.formats.units import energy_in_ev, length_in_m
from ptycho.data.geometry import Geometry, Pixel, energy_from_wavelength
from ptycho.data.scan import Scan
from ptycho.errors import DataError

# What fold_slice calls its arrays; a MATLAB file with these needs no keys.
FOLD_SLICE = DataKeys(frames="dp", y="ppY", x="ppX", positions_units="m", wavelength="lambda", wavelength_units="m")


def matches(contents: Contents) -> bool:
    """Whether this is a MATLAB 7.3 file with fold_slice's arrays; any other file is read only when keys are given."""
    return contents.kind == "matlab" and {"dp", "ppX", "ppY"} <= contents.arrays.keys()


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the file. Raises DataError when a named dataset is missing or its units unknown."""
    if not contents.is_hdf5:
        raise DataError(f"{contents.path}: data.keys name datasets of HDF5 files; this file is none.")
    with opened(contents) as source:
        return _measurement(source, overrides.keys or FOLD_SLICE, contents.kind == "matlab").scan(overrides)


def _measurement(source: HDF5Source, keys: DataKeys, is_matlab: bool) -> Measurement:
    n_axes = len(source.shape(keys.frames))
    axes = keys.frames_axes or "n" * (n_axes - 2) + ("xy" if is_matlab else "yx")
    if len(axes) != n_axes:
        raise DataError(
            f"{source.path}: /{keys.frames} has shape {source.shape(keys.frames)}, which does not fit the axes"
            f" {axes!r}; state data.keys.frames_axes."
        )
    frames = HDF5Frames.of(source.path, source.check_frames(keys.frames, axes), axes)
    positions, units = _positions(source, keys, frames.shape[0])
    in_px = units == "px"
    if positions is not None and units is not None and not in_px:
        positions = positions * length_in_m(1.0, units, f"{source.path}: positions")
    notes = [f"Frames are /{keys.frames} with axes {axes}; datasets and units are as stated."]
    return Measurement(
        path=source.path,
        frames=frames,
        positions_px=positions if in_px else None,
        positions_m=None if in_px else positions,
        mask=_mask(source, keys),
        zero_frequency="centre" if frames.shape[1] == frames.shape[2] else None,
        geometry=_geometry(source, keys, is_matlab),
        probe=_probe(source, keys, is_matlab),
        notes=notes,
    )


def _positions(source: HDF5Source, keys: DataKeys, n: int) -> tuple[NDArray[np.float64] | None, str | None]:
    if keys.positions is not None:
        values = source.array(keys.positions).astype(np.float64)
        if values.ndim == 2 and values.shape[0] == 2 and values.shape[1] != 2:
            values = values.T
        if values.shape != (n, 2):
            raise DataError(
                f"{source.path}: /{keys.positions} has shape {values.shape} for {n} frames; it must be (position, 2)."
            )
        values = values if keys.positions_order == "yx" else values[:, ::-1]
        return values, _units(source, keys.positions, keys.positions_units, "positions_units")
    if keys.y is None or keys.x is None:
        return None, None
    columns = [source.array(name).astype(np.float64) for name in (keys.y, keys.x)]
    values_or_none = raster_positions(columns[0], columns[1], n)
    if values_or_none is None:
        raise DataError(
            f"{source.path}: {columns[0].size} y and {columns[1].size} x positions for {n} frames; give one of each for"
            " every frame, or one for each line and column of a raster."
        )
    return values_or_none, _units(source, keys.y, keys.positions_units, "positions_units")


def _units(source: HDF5Source, name: str, stated: str | None, key: str) -> str:
    units = stated or source.units(name)
    if units is None:
        raise DataError(f"{source.path}: /{name} does not say its units; state data.keys.{key}.")
    return units


def _geometry(source: HDF5Source, keys: DataKeys, is_matlab: bool) -> Geometry:
    def value(
        name: str | None, stated: str | None, key: str, convert: Callable[[float, str, str], float]
    ) -> float | None:
        if name is None or (is_matlab and name not in source):
            return None
        source.dataset(name)
        number = source.number(name)
        return None if number is None else abs(convert(number, _units(source, name, stated, key), name))

    energy = value(keys.energy, keys.energy_units, "energy_units", energy_in_ev)
    wavelength = value(keys.wavelength, keys.wavelength_units, "wavelength_units", length_in_m)
    if energy is None and wavelength:
        energy = energy_from_wavelength(wavelength)
    pixel: Pixel | None = None
    if keys.detector_pixel is not None:
        units = _units(source, keys.detector_pixel, keys.detector_pixel_units, "detector_pixel_units")
        sides = source.array(keys.detector_pixel).astype(np.float64).reshape(-1)
        if sides.size not in (1, 2):
            raise DataError(f"{source.path}: /{keys.detector_pixel} must be one number, or height and width.")
        pixel = tuple(length_in_m(float(side), units, keys.detector_pixel) for side in (sides[0], sides[-1]))  # type: ignore[assignment]
    object_pixel = source.number("dx") if keys is FOLD_SLICE else None
    return Geometry(
        energy_eV=energy,
        distance_m=value(keys.distance, keys.distance_units, "distance_units", length_in_m),
        detector_pixel_m=pixel,
        object_pixel_m=(object_pixel, object_pixel) if object_pixel else None,
    )


def _mask(source: HDF5Source, keys: DataKeys) -> NDArray[np.bool_] | None:
    if keys.mask is None:
        return None
    if keys.mask_good is None:
        raise DataError(
            f'{source.path}: state data.keys.mask_good = "zero" or "nonzero": which pixels of the mask are good.'
        )
    values = source.array(keys.mask, "iub")
    return np.asarray(values == 0 if keys.mask_good == "zero" else values != 0)


def _probe(source: HDF5Source, keys: DataKeys, is_matlab: bool) -> NDArray[np.complex64] | None:
    if keys.probe is None:
        return None
    probe = as_modes(source.array(keys.probe, "c"), f"{source.path}: /{keys.probe}")
    return probe.swapaxes(-2, -1).copy() if is_matlab else probe
