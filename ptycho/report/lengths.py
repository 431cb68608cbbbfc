"""Lengths as people write them: round, with a fitting unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixel = tuple[float, float]


def length_words(length_m: float) -> str:
    """A length in the unit that a person would choose, to three digits: "81.9 nm"."""
    for unit, size in (("mm", 1e-3), ("µm", 1e-6), ("nm", 1e-9)):
        if length_m >= 0.9995 * size:
            return f"{length_m / size:.3g} {unit}"
    return f"{length_m / 1e-12:.3g} pm"


def round_length(at_most_px: float, pixel_m: Pixel | None) -> tuple[float, str]:
    """The largest 1, 2 or 5 times a power of ten that is not longer, in pixels (of the width), and in words.

    pixel_m: (height, width) of a pixel, or None when it is unknown and lengths are counted in pixels
    """
    pixel = 1.0 if pixel_m is None else pixel_m[1]
    target = at_most_px * pixel
    decade = 10.0 ** np.floor(np.log10(target))
    length = float(max(step * decade for step in (1, 2, 5) if step * decade <= target * 1.0001))
    return length / pixel, f"{length:g} px" if pixel_m is None else length_words(length)


def in_unit(
    positions_px: NDArray[np.float64], pixel_m: Pixel | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Positions y, x and their unit: µm when the pixel size is known, else px."""
    y, x = positions_px.T
    return (y, x, "px") if pixel_m is None else (y * pixel_m[0] * 1e6, x * pixel_m[1] * 1e6, "µm")
