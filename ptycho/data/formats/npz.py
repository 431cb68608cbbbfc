"""The NPZ files of older PtychoPINN programs, of ptychodus and of simulations: xcoords, ycoords, diff3d, probeGuess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.detector import as_counts, centre_frames
from ptycho.data.formats.npz_archive import NpzArchive, NpzFrames
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.frames import CheckedFrames
from ptycho.data.geometry import Geometry, energy_from_wavelength, metres_to_px
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan, Truth
from ptycho.errors import DataError

FRAME_KEYS = ("diff3d", "diffraction")
SURELY_METRES = 0.01
# File metadata may lie deeper: these are the tables in which programs have put the photon number.
METADATA_TABLES = ("physics_parameters", "training_parameters", "parameters")


def matches(contents: Contents) -> bool:
    """Whether the archive has a key that only these files have."""
    return contents.archive is not None and bool({"diff3d", "xcoords", "xcoords_start"} & contents.arrays.keys())


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the archive. Raises DataError when keys are missing, wrong or do not fit."""
    archive = contents.archive
    assert archive is not None  # `matches` said so
    notes: list[str] = []
    positions = _positions(contents, archive, notes)
    stored = _frames(contents, archive, len(positions), notes)
    mask = _mask(archive, stored.shape[1:])
    source = str(contents.path)
    centred, note = centre_frames(stored, source, "centre", overrides)
    notes.append(note)
    facts = _Facts.of(archive)
    counts, note = as_counts(CheckedFrames(centred, source, mask), source, overrides, facts.photons)
    notes.append(note)
    positions = _in_pixels(positions, overrides.geometry(facts.geometry), stored.shape[-1], notes)
    positions += _half_pixel(archive, stored, notes)
    start = _image(archive, "objectGuess")
    return Scan(
        name=contents.path.name.split(".")[0],
        path=contents.path,
        frames=CheckedFrames(counts, source, mask),
        positions_px=positions,
        probe=_probe(archive, "probeGuess"),
        mask=mask,
        geometry=overrides.geometry(facts.geometry),
        object_start=start,
        object_grid=None if start is None else ObjectGrid(shape=(start.shape[0], start.shape[1])),
        truth=_truth(archive),
        assumptions=tuple(notes),
        provenance=facts.provenance,
    )


@dataclass(frozen=True)
class _Facts:
    """What the file says about the measurement beside its arrays."""

    photons: float | None
    geometry: Geometry
    provenance: dict[str, object]

    @classmethod
    def of(cls, archive: NpzArchive) -> _Facts:
        metadata, simulation = archive.json("_metadata"), archive.json("meta")
        provenance: dict[str, object] = {}
        if metadata:
            provenance["metadata"] = metadata
        if simulation:
            provenance["simulation"] = simulation
        pixel, wavelength = _number(archive, "dx_m"), _number(archive, "wavelength_m")
        geometry = Geometry(
            energy_eV=None if wavelength is None else energy_from_wavelength(wavelength),
            distance_m=_number(archive, "distance_m"),
            object_pixel_m=None if pixel is None else (pixel, pixel),
        )
        return cls(_number(archive, "photons") or photons_in(metadata), geometry, provenance)


def photons_in(metadata: dict[str, object]) -> float | None:
    """The photon number in a file's metadata, or None."""
    tables: list[object] = [metadata, *(metadata.get(name) for name in METADATA_TABLES)]
    for table in tables:
        if isinstance(table, dict):
            value = table.get("nphotons")
            if isinstance(value, int | float) and value > 0:
                return float(value)
    return None


def _positions(contents: Contents, archive: NpzArchive, notes: list[str]) -> NDArray[np.float64]:
    names = ("ycoords", "xcoords")
    if not set(names) <= contents.arrays.keys() and {"xcoords_start", "ycoords_start"} <= contents.arrays.keys():
        names = ("ycoords_start", "xcoords_start")
        notes.append("Positions are xcoords_start and ycoords_start: the file has no others.")
    for name in names:
        if name not in archive.headers:
            raise DataError(f"{contents.path} has no array {name}. It contains: {contents.listing}.")
    y, x = (_real(archive, name).reshape(-1) for name in names)
    if len(x) != len(y):
        raise DataError(
            f"{contents.path}: {len(x)} {names[1]} but {len(y)} {names[0]}; one of each per frame is needed."
        )
    return np.stack([y, x], axis=1)


def _frames(contents: Contents, archive: NpzArchive, n: int, notes: list[str]) -> NpzFrames:
    name = next((key for key in FRAME_KEYS if key in archive.headers), None)
    if name is None:
        raise DataError(f"{contents.path} has no array diff3d or diffraction. It contains: {contents.listing}.")
    header = archive.headers[name]
    if len(header.shape) != 3 or header.dtype.kind not in "iuf":
        raise DataError(
            f"{contents.path}: {name} has shape {header.shape} and type {header.dtype};"
            " it must be real numbers with axes (position, y, x)."
        )
    fits_first, fits_last = header.shape[0] == n, header.shape[2] == n
    if not fits_first and not fits_last:
        raise DataError(
            f"{contents.path}: {name} has shape {header.shape} but there are {n} positions; one per frame is needed."
        )
    # Files that call the frames "diffraction" keep the position last; it matters only when all axes are equal.
    position_last = fits_last and (not fits_first or name == "diffraction")
    if position_last:
        notes.append(f"The axes of {name} are (y, x, position).")
    if fits_first and fits_last:
        axis = "last" if position_last else "first"
        notes.append(f"{name} has as many pixels as positions: the position is taken to be the {axis} axis.")
    return NpzFrames(archive, name, position_last=position_last)


def _in_pixels(positions: NDArray[np.float64], geometry: Geometry, size: int, notes: list[str]) -> NDArray[np.float64]:
    """Positions in object pixels. A scan within a hundredth of a pixel is none: such numbers are metres."""
    if not positions.size or not 0 < float(np.nanmax(np.abs(positions))) < SURELY_METRES:
        return positions
    notes.append("Positions are smaller than a hundredth of a pixel: they were taken to be metres.")
    return metres_to_px(positions, geometry, size)


def _half_pixel(archive: NpzArchive, frames: NpzFrames, notes: list[str]) -> float:
    """What to add to positions so that they name pixel N // 2 of the window.

    Older programs name that pixel already. ptychodus names the middle of the window, index (N − 1) / 2; its files are
    told by their key bad_pixels, and those of its earlier releases by repeated positions with whole-number frames; it
    writes no metadata.
    """
    repeated = "xcoords_start" in archive.headers and np.array_equal(
        _real(archive, "xcoords_start"), _real(archive, "xcoords" if "xcoords" in archive.headers else "xcoords_start")
    )
    by_ptychodus = "_metadata" not in archive.headers and (
        "bad_pixels" in archive.headers or (repeated and frames.dtype.kind in "iu" and "scan_index" in archive.headers)
    )
    if not by_ptychodus:
        notes.append("Positions name pixel N // 2 of the window, as older PtychoPINN files do.")
        return 0.0
    size = frames.shape[-1]
    shift = size // 2 - (size - 1) / 2
    notes.append(
        f"The file was written by ptychodus: positions name the middle of the window, so {shift} px were added"
        " to make them name pixel N // 2."
    )
    return shift


def _mask(archive: NpzArchive, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if "bad_pixels" not in archive.headers:
        return None
    found = archive.headers["bad_pixels"].shape
    if found != shape:
        raise DataError(
            f"{archive.path}: bad_pixels has shape {found} but the frames have {shape}; they must be equal."
        )
    return ~archive.load("bad_pixels").astype(bool)


def _truth(archive: NpzArchive) -> Truth | None:
    image = _image(archive, "objectTruth")
    if image is None:
        return None
    known = {"xcoords_true", "ycoords_true"} <= archive.headers.keys()
    return Truth(
        object=image,
        grid=ObjectGrid(shape=(image.shape[0], image.shape[1])),
        probe=_probe(archive, "probeTruth"),
        positions_px=np.stack([_real(archive, "ycoords_true"), _real(archive, "xcoords_true")], axis=1)
        if known
        else None,
    )


def _probe(archive: NpzArchive, name: str) -> NDArray[np.complex64] | None:
    if name not in archive.headers:
        return None
    return as_modes(archive.load(name), f"{archive.path}: {name}")


def _image(archive: NpzArchive, name: str) -> NDArray[np.complex64] | None:
    if name not in archive.headers:
        return None
    image = archive.load(name).astype(np.complex64)
    if image.ndim < 2 or not image.size or any(length != 1 for length in image.shape[:-2]):
        raise DataError(f"{archive.path}: {name} has shape {image.shape}; it must be (y, x).")
    return image.reshape(image.shape[-2:])


def _real(archive: NpzArchive, name: str) -> NDArray[np.float64]:
    values: NDArray[Any] = archive.load(name)
    if values.dtype.kind not in "iuf":
        raise DataError(f"{archive.path}: {name} has type {values.dtype}; it must be real numbers.")
    return values.astype(np.float64)


def _number(archive: NpzArchive, name: str) -> float | None:
    if name not in archive.headers or archive.headers[name].shape != ():
        return None
    value = float(_real(archive, name))
    return value if np.isfinite(value) and value > 0 else None
