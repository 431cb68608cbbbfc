"""Pairs of a file with frames, `dp`, and one with the rest, `para`: fold_slice's, and those of PtychoViT.

fold_slice keeps ppX, ppY, dx (metres) and lambda; PtychoViT keeps probe, object and positions as a product does.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ptycho.data.formats.contents import Contents, look_into
from ptycho.data.formats.hdf5_frames import HDF5Frames
from ptycho.data.formats.hdf5_source import HDF5Source, opened
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.probe_axes import as_modes
from ptycho.data.formats.product import OBJECT_ATTRIBUTES, grid_from_centre
from ptycho.data.geometry import Geometry, Pixel, energy_from_wavelength
from ptycho.data.scan import Scan
from ptycho.errors import DataError

_DP = re.compile(r"(^|_)dp(?=\.)")


def matches(contents: Contents) -> bool:
    """Whether the file has the array `dp` of frames."""
    return contents.kind == "hdf5" and len(contents.arrays.get("dp", ())) in (3, 4)


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the file. Raises DataError when the second file is missing or does not fit."""
    with opened(contents) as source:
        dataset = source.check_frames("dp")
        frames = HDF5Frames.of(contents.path, dataset, "n" * (dataset.ndim - 2) + "yx")
    is_square = frames.shape[1] == frames.shape[2]
    measurement = Measurement(
        path=contents.path,
        frames=frames,
        zero_frequency="centre" if is_square else None,
        notes=[
            "Frames are taken as (position, y, x) as stored. (MATLAB stores arrays with their axes reversed: where it"
            ' wrote the file and the image comes out transposed, state frame_axes = "xy".)'
        ],
    )
    para = para_beside(contents.path)
    if para is not None:
        _add_para(measurement, look_into(para))
    elif overrides.positions is None:
        raise DataError(
            f"{contents.path}: holds frames but no positions, and no {_para_name(contents.path)} lies beside it. Put it"
            ' there, or name a file with positions: positions = "…" in [data].'
        )
    return measurement.scan(overrides)


def para_beside(path: Path) -> Path | None:
    """The second file of a pair: dp → para in the name; None where there is none."""
    place = path.with_name(_para_name(path))
    return place if place != path and place.is_file() else None


def _para_name(path: Path) -> str:
    return _DP.sub(r"\1para", path.name)


def _add_para(measurement: Measurement, contents: Contents) -> None:
    if not contents.is_hdf5:
        raise DataError(f"{contents.path}: must be HDF5 with positions, probe and object.")
    with opened(contents) as source:
        measurement.notes.append(f"Positions come from {contents.path.name}.")
        pair = ("ppY", "ppX") if source.first("ppX") else ("probe_position_y_m", "probe_position_x_m")
        columns = [source.array(name).astype(np.float64).reshape(-1) for name in pair]
        if len(columns[0]) != len(columns[1]):
            raise DataError(f"{source.path}: {len(columns[0])} {pair[0]} but {len(columns[1])} {pair[1]}.")
        measurement.positions_m = np.stack(columns, axis=1)
        measurement.geometry = _geometry(source)
        size = measurement.frames.shape[-1]
        if source.first("probe") is not None and source.shape("probe")[-1:] == (size,):
            measurement.probe = as_modes(source.array("probe", "c"), f"{source.path}: /probe")
        if measurement.probe is not None:
            _add_object(measurement, source, size)


def _geometry(source: HDF5Source) -> Geometry:
    wavelength = source.number("lambda")
    pixel: Pixel | None = None
    side = source.number("dx")
    if side:
        pixel = side, side
    for owner in ("object", "probe"):
        height, width = (source.number_attribute(owner, f"pixel_{name}_m") or 0.0 for name in ("height", "width"))
        if pixel is None and height > 0 and width > 0:
            pixel = height, width
    return Geometry(
        energy_eV=energy_from_wavelength(wavelength) if wavelength else source.number("photon_energy_eV"),
        distance_m=source.number("detector_object_distance_m"),
        object_pixel_m=pixel,
    )


def _add_object(measurement: Measurement, source: HDF5Source, size: int) -> None:
    if source.first("object") is None or measurement.geometry.object_pixel_m is None:
        return
    shape = source.shape("object")
    centre_x, centre_y, width, height = (source.number_attribute("object", name) for name in OBJECT_ATTRIBUTES)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1):
        return
    if centre_x is None or centre_y is None or width is None or height is None:
        return
    if not (width > 0 and height > 0):
        return
    measurement.object_start = source.array("object", "c").reshape(shape[-2:]).astype(np.complex64)
    measurement.object_grid = grid_from_centre((shape[-2], shape[-1]), (centre_y, centre_x), size, (height, width))
