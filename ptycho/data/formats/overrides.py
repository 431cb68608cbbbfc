"""Statements about a scan file that its reader cannot know or would get wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ptycho.data.formats.data_keys import DataKeys
from ptycho.data.geometry import Geometry, Pixel
from ptycho.data.orientation import Axes
from ptycho.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ReadOverrides:
    """What a person says about a file; None leaves the question to the reader.

    diffraction:       whether the stored values are counts or their square roots
    photons_per_frame: mean counts of one frame, for amplitudes that were normalised
    zero_frequency:    where the file keeps zero frequency: index N // 2 ("centre") or [0, 0] ("corner")
    beam_centre_px:    (y, x) detector pixel, from 0, that the direct beam hits in the file's frames, or "find"
    window_px:         side of the square that is cut out around the beam centre, even; the largest that fits in the
                       detector when None. Only looked at where frames are not square or not centred
    keys:              where an HDF5 file of no known format keeps its arrays
    positions:         a file with the positions of the frames, instead of the scan file's
    start:             a reconstruction whose probe and object to start from, instead of the scan file's
    frame_axes, position_axes: how the file's axes are to be turned, see `ptycho.data.orientation`
    The others replace the geometry that the file records.
    """

    diffraction: Literal["counts", "amplitude"] | None = None
    photons_per_frame: float | None = None
    zero_frequency: Literal["centre", "corner"] | None = None
    energy_eV: float | None = None
    distance_m: float | None = None
    detector_pixel_m: Pixel | None = None
    object_pixel_m: Pixel | None = None
    focus_distance_m: float | None = None
    beam_centre_px: tuple[float, float] | Literal["find"] | None = None
    window_px: int | None = None
    keys: DataKeys | None = None
    positions: Path | None = None
    start: Path | None = None
    frame_axes: Axes | None = None
    position_axes: Axes | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("diffraction", ("counts", "amplitude")), ("zero_frequency", ("centre", "corner"))):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise DataError(f'{name} = "{value}": must be one of {", ".join(allowed)}.')
        if self.photons_per_frame is not None and not 0 < self.photons_per_frame < float("inf"):
            raise DataError(f"photons_per_frame = {self.photons_per_frame}: must be a positive number.")

    def geometry(self, recorded: Geometry) -> Geometry:
        """The recorded geometry with the stated values in place of the file's."""
        names = ("energy_eV", "distance_m", "detector_pixel_m", "object_pixel_m", "focus_distance_m")
        stated = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if (
            stated.keys() & {"energy_eV", "distance_m", "detector_pixel_m", "focus_distance_m"}
            and "object_pixel_m" not in stated
        ):
            # The recorded object pixel follows from the values that were just replaced.
            completed = replace(recorded, object_pixel_m=None, **stated)
            return completed if completed.object_pixel(1) is not None else replace(recorded, **stated)
        return replace(recorded, **stated)
