"""Geometry of a measurement: energy, distance and pixel sizes, each known or None."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import DataError

# Planck constant times speed of light (CODATA 2018), in eV·m: photon wavelength = HC_EV_M / energy.
HC_EV_M = 1.2398419843e-6

Pixel = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What is known about a measurement with photons; None where nothing was recorded.

    distance_m:       sample to detector
    detector_pixel_m: (height, width) of one detector pixel
    object_pixel_m:   (height, width) of one object pixel; None means: follows from the others
    focus_distance_m: focus to sample, of a near-field measurement in the diverging beam behind a focus; None means
                      that the detector is in the far field

    Raises DataError for a value that is not a positive finite number.
    """

    energy_eV: float | None = None
    distance_m: float | None = None
    detector_pixel_m: Pixel | None = None
    object_pixel_m: Pixel | None = None
    focus_distance_m: float | None = None

    def __post_init__(self) -> None:
        for name in ("energy_eV", "distance_m", "focus_distance_m"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _positive(name, value))
        for name in ("detector_pixel_m", "object_pixel_m"):
            pixel = getattr(self, name)
            if pixel is not None:
                if np.shape(pixel) != (2,):
                    raise DataError(f"{name} = {pixel}: must be two numbers, (height, width), in metres.")
                object.__setattr__(self, name, (_positive(name, pixel[0]), _positive(name, pixel[1])))

    @property
    def wavelength_m(self) -> float | None:
        """Photon wavelength."""
        return None if self.energy_eV is None else HC_EV_M / self.energy_eV

    @property
    def is_near_field(self) -> bool:
        """Whether the frames are magnified shadows of the sample, not its Fourier transforms."""
        return self.focus_distance_m is not None

    @property
    def magnification(self) -> float | None:
        """How much larger the shadow on the detector is than the sample; None in the far field or where unknown."""
        if self.focus_distance_m is None or self.distance_m is None:
            return None
        return (self.focus_distance_m + self.distance_m) / self.focus_distance_m

    def object_pixel(self, patch_size: int) -> Pixel | None:
        """Object pixel (height, width) in metres: the recorded one, else the one that follows, else None.

        Far field: λz / (N · detector pixel). Near field behind a focus: detector pixel / magnification, where the
        magnification is (focus to detector) / (focus to sample); Fresnel scaling, Paganin (2006), appendix B.

        patch_size: N, the number of detector pixels along each side that are used
        """
        if self.object_pixel_m is not None:
            return self.object_pixel_m
        if self.magnification is not None and self.detector_pixel_m is not None:
            return self.detector_pixel_m[0] / self.magnification, self.detector_pixel_m[1] / self.magnification
        if self.wavelength_m is None or self.distance_m is None or self.detector_pixel_m is None:
            return None
        reach = self.wavelength_m * self.distance_m / patch_size
        return reach / self.detector_pixel_m[0], reach / self.detector_pixel_m[1]

    def fresnel_px2(self, patch_size: int) -> Pixel | None:
        """λz/dx² of the near field in square object pixels, (height, width), or None for the far field.

        By the Fresnel scaling theorem the shadow in a diverging beam is that of a parallel one at the distance
        z = (sample to detector) / magnification (Paganin, Coherent X-Ray Optics (2006), eq. 1.41 and appendix B).
        Raises DataError when energy or distance is unknown.
        """
        if not self.is_near_field:
            return None
        pixel, wavelength, magnification = self.object_pixel(patch_size), self.wavelength_m, self.magnification
        if pixel is None or wavelength is None or magnification is None or self.distance_m is None:
            raise DataError(
                "a near-field scan (focus_distance_m is set) needs energy_eV, distance_m and detector_pixel_m too;"
                " add them to the file or to [data]"
            )
        reach = wavelength * self.distance_m / magnification
        return reach / pixel[0] ** 2, reach / pixel[1] ** 2

    def cropped(self, patch_size: int, crop_px: int) -> Geometry:
        """The same measurement seen by the central `crop_px` of `patch_size` detector pixels: coarser object pixels."""
        if self.object_pixel_m is None or self.is_near_field:
            return self
        factor = patch_size / crop_px
        return replace(self, object_pixel_m=(self.object_pixel_m[0] * factor, self.object_pixel_m[1] * factor))

    def binned(self, factor: int) -> Geometry:
        """The same measurement with factor × factor detector pixels taken as one; object pixels stay."""
        if self.detector_pixel_m is None:
            return self
        height, width = self.detector_pixel_m
        return replace(self, detector_pixel_m=(height * factor, width * factor))

    def transposed(self) -> Geometry:
        """The same measurement with the detector's rows taken for columns."""

        def turned(pixel: Pixel | None) -> Pixel | None:
            return None if pixel is None else (pixel[1], pixel[0])

        return replace(self, detector_pixel_m=turned(self.detector_pixel_m), object_pixel_m=turned(self.object_pixel_m))


def known_pixels(geometry: Geometry, patch_size: int, what: str) -> tuple[Pixel, Pixel]:
    """The object pixel and the detector pixel that gives exactly it, for files that hold only the latter.

    what: what is to be written, for the message. Raises DataError when energy, distance or both pixels are unknown.
    """
    pixel = geometry.object_pixel(patch_size)
    if pixel is None or geometry.wavelength_m is None or geometry.distance_m is None:
        names = ("energy_eV", "distance_m", "detector_pixel_m")
        missing = [name for name in names if getattr(geometry, name) is None]
        raise DataError(
            f"{what}: such files are in metres, but this scan does not say {', '.join(missing)}. State what is missing,"
            " or write another format."
        )
    if geometry.is_near_field and geometry.detector_pixel_m is not None:
        return pixel, geometry.detector_pixel_m
    reach = geometry.wavelength_m * geometry.distance_m / patch_size
    return pixel, (reach / pixel[0], reach / pixel[1])


def energy_from_wavelength(wavelength_m: float) -> float:
    """Photon energy in eV."""
    return HC_EV_M / _positive("wavelength_m", wavelength_m)


def metres_to_px(lengths_m: NDArray[np.float64], geometry: Geometry, patch_size: int) -> NDArray[np.float64]:
    """Lengths or positions (..., 2) = (y, x) in object pixels. Raises DataError when the pixel size is unknown."""
    pixel = np.asarray(_known_pixel(geometry, patch_size))
    return np.asarray(np.asarray(lengths_m, dtype=np.float64) / pixel)


def px_to_metres(lengths_px: NDArray[np.float64], geometry: Geometry, patch_size: int) -> NDArray[np.float64]:
    """Lengths or positions (..., 2) = (y, x) in metres. Raises DataError when the pixel size is unknown."""
    pixel = np.asarray(_known_pixel(geometry, patch_size))
    return np.asarray(np.asarray(lengths_px, dtype=np.float64) * pixel)


def _known_pixel(geometry: Geometry, patch_size: int) -> Pixel:
    pixel = geometry.object_pixel(patch_size)
    if pixel is None:
        missing = [name for name in ("energy_eV", "distance_m", "detector_pixel_m") if getattr(geometry, name) is None]
        raise DataError(
            "Positions are in metres but the object pixel size is unknown"
            f" (no object_pixel_m, and {', '.join(missing)} not recorded). Give object_pixel_m or the missing values."
        )
    return pixel


def _positive(name: str, value: float) -> float:
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise DataError(f"{name} = {number}: must be a positive number; leave it out when it is unknown.")
    return number
