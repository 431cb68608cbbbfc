"""What a file records of a measurement, and the scan that it makes: the steps that beamline formats have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho.data.detector_view import DetectorView
from ptycho.data.formats.beam_centre import cut_square
from ptycho.data.formats.detector import as_counts, centre_frames, sample_frames
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.formats.positions import read_positions
from ptycho.data.frames import CentredFrames, CheckedFrames
from ptycho.data.geometry import Geometry, metres_to_px
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Frames, Scan
from ptycho.errors import DataError


@dataclass(kw_only=True)
class Measurement:
    """One measurement as its file has it.

    frames:       (position, y, x), rectangular or square
    positions_m:  (position, 2) (y, x) metres, or positions_px in object pixels, or neither where the file has none
    middle:       positions name the middle of the window, index (N − 1) / 2, instead of pixel N // 2
    zero_frequency: where files of this format keep it, which is then checked; None: at the beam, wherever that is
    mask:         (y, x) True where good
    dark:         (y, x) the detector's dark signal in counts, recorded and still in the frames
    beam_centre_px: (y, x) recorded, from 0
    probe, object_start, object_grid: as in `Scan`
    photons:      mean counts of a frame, recorded
    notes:        sentences: what was assumed so far
    """

    path: Path
    frames: Frames
    positions_m: NDArray[np.float64] | None = None
    positions_px: NDArray[np.float64] | None = None
    middle: bool = False
    zero_frequency: Literal["centre", "corner"] | None = None
    mask: NDArray[np.bool_] | None = None
    dark: NDArray[np.float32] | None = None
    beam_centre_px: tuple[float, float] | None = None
    geometry: Geometry = field(default_factory=Geometry)
    probe: NDArray[np.complex64] | None = None
    object_start: NDArray[np.complex64] | None = None
    object_grid: ObjectGrid | None = None
    photons: float | None = None
    name: str | None = None
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, object] = field(default_factory=dict)

    def scan(self, overrides: ReadOverrides) -> Scan:
        """The scan that this measurement is, its frames still unread. Raises DataError when parts do not fit."""
        source = str(self.path)
        if self.mask is not None:
            if self.mask.shape != self.frames.shape[1:]:
                raise DataError(f"mask of shape {self.mask.shape} does not fit frames of {self.frames.shape[1:]}")
            if not self.mask.any():
                raise DataError("every pixel is masked")
        frames, notes = self.frames, list(self.notes)
        mask = _without_marked(frames, self.mask, notes)
        if self.zero_frequency is not None and not overrides.focus_distance_m:
            frames, note = centre_frames(CheckedFrames(frames, source, mask), source, self.zero_frequency, overrides)
            notes.append(note)
            if isinstance(frames, CentredFrames) and mask is not None:
                mask = np.fft.fftshift(mask)
        elif overrides.zero_frequency == "corner":
            frames, mask = CentredFrames(frames), None if mask is None else np.fft.fftshift(mask)
            notes.append("Zero frequency lies at [0, 0] of the stored frames, as stated; moved to N // 2.")
        square = cut_square(frames, mask, self.beam_centre_px, overrides, source)
        notes += square.notes
        counts, note = as_counts(CheckedFrames(square.frames, source, square.mask), source, overrides, self.photons)
        notes.append(note)
        geometry = overrides.geometry(self.geometry)
        return Scan(
            name=self.name or self.path.name.split(".")[0],
            path=self.path,
            frames=CheckedFrames(counts, source, square.mask),
            positions_px=self._positions(geometry, counts.shape, overrides, notes),
            probe=self.probe,
            mask=square.mask,
            geometry=geometry,
            object_start=self.object_start,
            object_grid=self.object_grid,
            detector=DetectorView(
                shape=(self.frames.shape[1], self.frames.shape[2]),
                shifted=isinstance(frames, CentredFrames),
                centre_px=square.centre_px,
                size=square.frames.shape[-1],
                dark=self.dark,
            ),
            assumptions=tuple(notes),
            provenance=self.provenance,
        )

    def _positions(
        self, geometry: Geometry, shape: tuple[int, int, int], overrides: ReadOverrides, notes: list[str]
    ) -> NDArray[np.float64]:
        n, size = shape[0], shape[-1]
        if overrides.positions is not None:
            return read_positions(overrides.positions, n, geometry, size, notes)
        if self.positions_px is not None:
            found = self.positions_px
        elif self.positions_m is not None:
            _say_field(geometry, notes)
            found = metres_to_px(self.positions_m, geometry, size)
        else:
            raise DataError(
                f"{self.path}: the file holds frames but no positions. Name a file that has them:"
                ' positions = "positions.csv" (see docs/data-formats.md).'
            )
        if len(found) != n:
            raise DataError(f"{self.path}: {n} frames but {len(found)} positions; one of each is needed.")
        if not self.middle or size % 2:
            return found
        notes.append("Positions name the middle of the window: 0.5 px were added to make them name pixel N // 2.")
        return found + 0.5


def _say_field(geometry: Geometry, notes: list[str]) -> None:
    if geometry.object_pixel_m is not None:
        return
    if geometry.magnification is not None:
        notes.append(
            f"Near field, as stated: magnification {geometry.magnification:.5g}, so an object pixel is the detector"
            " pixel divided by that. Positions in metres were divided by the object pixel."
        )
    else:
        notes.append(
            "Far field is assumed: an object pixel is wavelength · distance / (N · detector pixel). Positions in metres"
            " were divided by it. (Near field? State focus_distance_m.)"
        )


def _without_marked(frames: Frames, mask: NDArray[np.bool_] | None, notes: list[str]) -> NDArray[np.bool_] | None:
    """The mask without the pixels that hold their type's largest number in every frame looked at, as gaps do."""
    if frames.dtype.kind not in "iu" or frames.dtype.itemsize < 2:
        return mask
    marked = (sample_frames(frames) >= float(np.iinfo(frames.dtype).max)).all(axis=0)  # type: ignore[type-var]
    if mask is not None:
        marked &= mask
    if not marked.any():
        return mask
    notes.append(f"{marked.sum()} pixels hold the largest number of their type in every frame looked at; masked.")
    return np.asarray(~marked if mask is None else mask & ~marked)
