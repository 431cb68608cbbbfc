"""Where a CXI or NXcxi_ptycho file keeps its geometry: energy, distance, pixel, axes, positions.

CXI 1.6: x, y and z are the laboratory's; energies are in joules; `translation` is the motion of the sample; columns of
`basis_vectors` are the steps of a detector's rows and columns. A step (0, −h, 0) to the next row and (−w, 0, 0) to the
next column is the usual one: it makes the position of the light on the sample, which is minus the motion, count along
rows and columns as x and y of `translation` do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.hdf5_source import HDF5Source
from ptycho.data.formats.units import energy_in_ev, length_in_m
from ptycho.data.geometry import Geometry, energy_from_wavelength
from ptycho.errors import DataError

ENTRY = "entry_1"
INSTRUMENT = f"{ENTRY}/instrument_1"
DETECTOR = f"{INSTRUMENT}/detector_1"
TRANSLATIONS = (
    f"{ENTRY}/sample_1/geometry_1/translation",
    f"{ENTRY}/data_1/translation",
    f"{DETECTOR}/translation",
)
BEAM_ENERGIES = (f"{INSTRUMENT}/beam_1/energy", f"{INSTRUMENT}/beam_1/incident_energy")
SOURCE_ENERGY = f"{INSTRUMENT}/source_1/energy"
WAVELENGTHS = (
    f"{INSTRUMENT}/beam_1/wavelength", f"{INSTRUMENT}/beam_1/incident_wavelength", f"{INSTRUMENT}/source_1/wavelength",
)  # fmt: skip
# An X-ray photon has 1e-18 to 1e-13 J; as a number of eV or keV it is larger than one.
LARGEST_PHOTON_J = 1e-12
USUAL_ROW, USUAL_COLUMN = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])


@dataclass(frozen=True)
class CxiGeometry:
    """What the file says.

    row, column: unit vectors (x, y, z) of a step to the next row and column of the detector
    beam_centre_px: (y, x) where the file says it
    """

    geometry: Geometry
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    beam_centre_px: tuple[float, float] | None
    notes: tuple[str, ...]


def read_geometry(source: HDF5Source) -> CxiGeometry:
    """The geometry of the first detector. Raises DataError for values that contradict themselves."""
    notes: list[str] = []
    row, column, pixel = _axes(source, notes)
    distance = _length(source, f"{DETECTOR}/distance", f"{DETECTOR}/detector_distance")
    corner = _corner(source)
    if distance is None and corner is not None and corner[2]:
        distance = abs(float(corner[2]))
        notes.append("The distance is that of the detector's corner along the beam.")
    geometry = Geometry(energy_eV=_photon_energy(source, notes), distance_m=distance, detector_pixel_m=pixel)
    return CxiGeometry(geometry, row, column, _beam_centre(source, corner, row, column, pixel), tuple(notes))


def read_translations(source: HDF5Source, found: CxiGeometry) -> NDArray[np.float64] | None:
    """Positions (position, 2) = (y, x) of the light on the sample in metres along the detector's rows and columns."""
    name = source.first(*TRANSLATIONS)
    if name is None:
        return None
    moved = source.array(name).astype(np.float64)
    if moved.ndim > 2:
        moved = moved.reshape(-1, moved.shape[-1])
    if moved.ndim != 2 or moved.shape[1] not in (2, 3):
        raise DataError(
            f"{source.path}: /{name} has shape {moved.shape}; it must be (position, 3), x, y and z in metres."
        )
    units = source.units(name)
    scale = 1.0 if units is None else length_in_m(1.0, units, f"{source.path}: /{name}")
    moved = np.pad(moved, [(0, 0), (0, 3 - moved.shape[1])]) * scale
    return -np.stack([moved @ found.row, moved @ found.column], axis=1)


def _axes(
    source: HDF5Source, notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float] | None]:
    sizes = [_length(source, f"{DETECTOR}/{axis}_pixel_size") for axis in "yx"]
    pixel = None
    if any(sizes):
        height, width = (sizes[0] or sizes[1] or 0.0), (sizes[1] or sizes[0] or 0.0)
        pixel = height, width
    name = source.first(f"{DETECTOR}/basis_vectors")
    if name is None:
        notes.append("No basis_vectors: rows are taken to run along −y and columns along −x, as usual in CXI.")
        return USUAL_ROW, USUAL_COLUMN, pixel
    basis = source.array(name).astype(np.float64)
    if basis.shape == (2, 3):
        basis = basis.T
    lengths = np.linalg.norm(basis, axis=0) if basis.shape == (3, 2) else np.zeros(2)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise DataError(f"{source.path}: basis_vectors must be two vectors of three numbers, not {basis.tolist()}.")
    row, column = (basis / lengths).T
    if abs(float(row @ column)) > 0.02:
        raise DataError(f"{source.path}: basis_vectors are not at right angles; such detectors cannot be used.")
    if np.allclose(row, USUAL_ROW, atol=0.02) and np.allclose(column, USUAL_COLUMN, atol=0.02):
        notes.append("basis_vectors are the usual ones: rows run along −y, columns along −x.")
    else:
        notes.append(
            f"By basis_vectors rows run along {_rounded(row)} and columns along {_rounded(column)} (x, y, z);"
            " positions were turned accordingly."
        )
    return row, column, (float(lengths[0]), float(lengths[1]))


def _rounded(vector: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in vector + 0.0) + ")"


def _length(source: HDF5Source, *names: str) -> float | None:
    name = source.first(*names)
    value = source.number(*names)
    if name is None or value is None or value == 0:
        return None
    units = source.units(name)
    return abs(value) if units is None else length_in_m(abs(value), units, f"{source.path}: /{name}")


def _photon_energy(source: HDF5Source, notes: list[str]) -> float | None:
    for name in (*BEAM_ENERGIES, SOURCE_ENERGY):
        if source.first(name) is None:
            continue
        value, units = source.number(name), source.units(name)
        if value is None or value <= 0:
            continue
        if units is not None:
            found = energy_in_ev(value, units, f"{source.path}: /{name}")
            if name == SOURCE_ENERGY and found > 1e7:
                notes.append(f"/{name} is the energy of the storage ring, not of a photon, and is not used.")
                continue
            return found
        if value > LARGEST_PHOTON_J:
            raise DataError(
                f"{source.path}: /{name} = {value:g} without units; CXI energies are joules, and no photon has that"
                " many. State energy_eV."
            )
        return energy_in_ev(value, "J", name)
    wavelength = _length(source, *WAVELENGTHS)
    return None if wavelength is None else energy_from_wavelength(wavelength)


def _corner(source: HDF5Source) -> NDArray[np.float64] | None:
    name = source.first(f"{DETECTOR}/corner_position")
    if name is None:
        return None
    corner = source.array(name).astype(np.float64).reshape(-1)
    if corner.shape != (3,) or not np.isfinite(corner).all():
        raise DataError(f"{source.path}: /{name} must be three finite numbers, x, y and z in metres.")
    return corner


def _beam_centre(
    source: HDF5Source,
    corner: NDArray[np.float64] | None,
    row: NDArray[np.float64],
    column: NDArray[np.float64],
    pixel: tuple[float, float] | None,
) -> tuple[float, float] | None:
    y, x = (source.number(f"{DETECTOR}/beam_center_{axis}") for axis in "yx")
    if y is not None and x is not None:
        return y, x
    if corner is None or pixel is None or not corner[:2].any():
        return None
    # The beam runs along z through the origin; pixel 0 reaches from the corner to one step further.
    steps = -np.array([corner @ row / pixel[0], corner @ column / pixel[1]])
    y, x = (float(np.floor(step + 1e-6)) for step in steps)
    return y, x
