"""Colours of values: limits of a colour map; hue by phase and brightness by amplitude for complex numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The circle of hues in OKLab (Ottosson 2020): the same lightness and chroma for every phase, so that brightness means
# amplitude alone, which a circle of HSV hues does not give.
_LIGHTNESS, _CHROMA = 0.78, 0.13
# Below 1, so that the weak rings about a focus are seen beside its bright middle.
_GAMMA = 0.6


def complex_colours(wave: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """RGB (y, x, 3), 0 to 1, of a complex array (y, x), black where it is zero and brightest at its maximum."""
    brightness = (np.abs(wave) / max(float(np.abs(wave).max()), 1e-30)) ** _GAMMA
    return _rgb(_LIGHTNESS * brightness, _CHROMA * np.minimum(1, 1.6 * brightness), np.angle(wave))


def phase_colours(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGB (…, 3) of phases in rad, at full brightness."""
    return _rgb(np.full(phase.shape, _LIGHTNESS), np.full(phase.shape, _CHROMA), phase)


def colour_limits(values: NDArray[np.floating], tail: float = 0.005) -> tuple[float, float]:
    """Least and greatest value shown, so that a share `tail` of the values lies beyond each."""
    low, high = (float(v) for v in np.quantile(values, [tail, 1 - tail]))
    # A constant image would make the colour map divide by zero; it is shown as one mid colour.
    return (low, high) if high - low > 1e-6 * max(abs(low), abs(high), 1e-12) else (low - 0.5, high + 0.5)


def _rgb(lightness: NDArray[np.float64], chroma: NDArray[np.float64], hue: NDArray[np.floating]) -> NDArray[np.float64]:
    """sRGB of OKLab lightness, chroma and hue: Ottosson's matrices, then the standard's transfer curve."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short
    linear = np.clip(np.stack([red, green, blue], -1), 0, 1)
    coded: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return coded
