"""NeXus files of beamlines, found by their classes (NX_class), and Eiger's master files, which are NeXus too.

Energies are eV unless `units` says otherwise, lengths metres. Data that lie in other files are followed through
external links and virtual datasets; a source that is missing is an error, because HDF5 would read zeros.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.contents import Contents
from ptycho.data.formats.hdf5_frames import HDF5Frames, JoinedFrames
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.units import energy_in_ev, length_in_m
from ptycho.data.geometry import Geometry, Pixel, energy_from_wavelength
from ptycho.data.scan import Frames, Scan
from ptycho.errors import DataError

_PIECE = re.compile(r"^data_\d+$")
# Names that beamlines give to the sample's motors, in the order in which they are tried.
Y_NAMES = ("translation_y", "sample_y", "samy", "y", "lab_y", "stage_y", "smary", "t1_sy")
X_NAMES = ("translation_x", "sample_x", "samx", "x", "lab_x", "stage_x", "smarx", "t1_sx")
MAX_GROUPS = 2000


def matches(contents: Contents) -> bool:
    """Whether the file has an entry with data or an instrument, as NeXus names them."""
    if not contents.is_hdf5:
        return False
    return contents.attributes.get("NX_class") in ("NXroot", b"NXroot") or any(
        re.match(r"entry[^/]*/(data|instrument)", name) for name in contents.arrays
    )


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the files. Raises DataError when frames or positions cannot be found."""
    with opened(contents) as source:
        groups = _Groups(source)
        detector = groups.first("NXdetector") or groups.named("instrument/detector")
        notes: list[str] = []
        frames = _frames(source, groups, detector, notes)
        mask = _mask(source, detector, frames.shape[1:], notes)
        measurement = Measurement(
            path=source.path,
            frames=frames,
            positions_m=None if overrides.positions else _positions(source, groups, frames.shape[0], notes),
            mask=mask,
            beam_centre_px=_beam_centre(source, detector),
            geometry=_geometry(source, groups, detector),
            notes=notes,
        )
    return measurement.scan(overrides)


class _Groups:
    """The groups of a NeXus file with their classes, the entry's own first."""

    def __init__(self, source: HDF5Source) -> None:
        self._source = source
        self.paths: list[tuple[str, str]] = []
        waiting = [name for name in source.names() if source.is_group(name)]
        while waiting and len(self.paths) < MAX_GROUPS:
            path = waiting.pop(0)
            self.paths.append((path, source.label(path, "NX_class") or ""))
            # Links may lead in circles; NeXus needs few levels.
            if path.count("/") < 5:
                waiting += [f"{path}/{name}" for name in source.names(path) if source.is_group(f"{path}/{name}")]

    def first(self, kind: str) -> str | None:
        """The first group of a class that holds something."""
        return next((path for path, found in self.paths if found == kind and self._source.names(path)), None)

    def named(self, ending: str) -> str | None:
        """The first group whose path ends so."""
        return next((path for path, _ in self.paths if path.endswith(ending)), None)

    def of(self, *kinds: str) -> list[str]:
        """The groups of these classes."""
        return [path for path, found in self.paths if found in kinds]


def _frames(source: HDF5Source, groups: _Groups, detector: str | None, notes: list[str]) -> Frames:
    homes = [*groups.of("NXdata"), *(path for path, _ in groups.paths if path.endswith("/data"))]
    for home in [*([detector] if detector else []), *homes]:
        pieces = [name for name in source.names(home) if _PIECE.match(name)]
        if pieces:
            return _joined(source, home, pieces, notes)
        for name in ("data", "frames"):
            path = source.first(f"{home}/{name}")
            if path is not None and len(source.shape(path)) in (3, 4) and source.dataset(path).dtype.kind in "iuf":
                dataset = source.check_frames(path)
                notes.append(f"Frames are /{path}.")
                return HDF5Frames.of(source.path, dataset, "n" * (dataset.ndim - 2) + "yx")
    raise DataError(
        f"{source.path}: no frames were found in an NXdetector or NXdata. It contains: {source.listing}."
        ' Name them: keys = { frames = "…", … } in [data].'
    )


def _joined(source: HDF5Source, home: str, pieces: list[str], notes: list[str]) -> Frames:
    """Eiger's data files, which the master names one by one; links to files that were never written are common."""
    parts: list[Frames] = []
    pieces.sort(key=lambda name: int(name.removeprefix("data_")))
    for number, name in enumerate(pieces):
        if source.first(f"{home}/{name}") is None:
            # Only missing files at the end are files that were never written.
            if any(source.first(f"{home}/{later}") for later in pieces[number + 1 :]) or not parts:
                raise DataError(
                    f"{source.path}: {home}/{name} leads to a file that is missing or damaged. Copy all data files to"
                    " the place beside the master file."
                )
            notes.append(f"The data files from {name} on are not there; {len(pieces) - number} links lead nowhere.")
            break
        parts.append(HDF5Frames.of(source.path, source.check_frames(f"{home}/{name}"), "nyx"))
    if len({part.shape[1:] for part in parts}) != 1:
        raise DataError(f"{source.path}: the data files' frames have different sizes.")
    notes.append(f"Frames are those of {len(parts)} data files in /{home}.")
    return JoinedFrames(parts)


def _mask(
    source: HDF5Source, detector: str | None, shape: tuple[int, ...], notes: list[str]
) -> NDArray[np.bool_] | None:
    places = ("pixel_mask", "mask", "detectorSpecific/pixel_mask")
    name = source.first(*(f"{detector}/{place}" for place in places)) if detector else None
    if name is None or source.shape(name) != shape:
        return None
    bad = source.array(name, "iub") != 0
    notes.append(f"{bad.sum()} pixels are masked by /{name}.")
    return np.asarray(~bad)


def _beam_centre(source: HDF5Source, detector: str | None) -> tuple[float, float] | None:
    if detector is None:
        return None
    y, x = (source.number(f"{detector}/beam_center_{axis}") for axis in "yx")
    # Eiger writes 0 where nobody told it.
    return (y, x) if y and x else None


def _geometry(source: HDF5Source, groups: _Groups, detector: str | None) -> Geometry:
    beams = [*groups.of("NXbeam"), *groups.of("NXmonochromator")]
    homes = [*beams, *([f"{detector}/detectorSpecific"] if detector else [])]
    energy = None
    for home in homes:
        name = source.first(*(f"{home}/{key}" for key in ("incident_energy", "energy", "photon_energy")))
        value = None if name is None else source.number(name)
        if name is not None and value:
            energy = energy_in_ev(value, source.units(name) or "eV", f"{source.path}: /{name}")
            break
    if energy is None:
        for home in homes:
            wavelength = _length(source, f"{home}/incident_wavelength", f"{home}/wavelength", usual="angstrom")
            if wavelength:
                energy = energy_from_wavelength(wavelength)
                break
    if detector is None:
        return Geometry(energy_eV=energy)
    sides = [_length(source, f"{detector}/{axis}_pixel_size") for axis in "yx"]
    pixel: Pixel | None = (sides[0] or sides[1], sides[1] or sides[0]) if any(sides) else None  # type: ignore[assignment]
    distance = _length(source, f"{detector}/distance", f"{detector}/detector_distance")
    return Geometry(energy_eV=energy, distance_m=distance, detector_pixel_m=pixel)


def _length(source: HDF5Source, *names: str, usual: str = "m") -> float | None:
    name = source.first(*names)
    value = None if name is None else source.number(name)
    if name is None or not value:
        return None
    return length_in_m(abs(value), source.units(name) or usual, f"{source.path}: /{name}")


def _positions(source: HDF5Source, groups: _Groups, n: int, notes: list[str]) -> NDArray[np.float64] | None:
    """Positions (position, 2) = (y, x) in metres of motors whose datasets say their units; None when there are none."""
    homes = groups.of("NXtransformations", "NXsample", "NXdata", "NXpositioner", "NXcollection")
    homes += [path for path, _ in groups.paths if path.endswith(("/data", "/sample", "/positions"))]
    for home in dict.fromkeys(homes):
        names = {name.lower(): name for name in source.names(home)}
        pair = [next((names[known] for known in options if known in names), None) for options in (Y_NAMES, X_NAMES)]
        if pair[0] is None or pair[1] is None:
            continue
        paths = [f"{home}/{name}" for name in pair]
        if any(source.first(path) is None or source.units(path) is None for path in paths):
            continue
        columns = [
            source.array(path).astype(np.float64)
            * length_in_m(1.0, source.units(path) or "", f"{source.path}: /{path}")
            for path in paths
        ]
        positions = raster_positions(columns[0], columns[1], n)
        if positions is not None:
            notes.append(f"Positions are /{paths[0]} and /{paths[1]}, of the sample's motors, taken with their signs.")
            return positions
    return None


def raster_positions(y: NDArray[np.float64], x: NDArray[np.float64], n: int) -> NDArray[np.float64] | None:
    """Positions (n, 2) from one value each for every frame, or one for each line and column of a raster; else None."""
    y, x = y.reshape(-1), x.reshape(-1)
    if len(y) == len(x) == n:
        return np.stack([y, x], axis=1)
    if len(y) * len(x) == n:
        return np.stack([grid.reshape(-1) for grid in np.meshgrid(y, x, indexing="ij")], axis=1)
    return None
