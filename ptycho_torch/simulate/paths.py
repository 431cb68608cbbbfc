"""Scan paths: where the probe is put, in the order in which it gets there.

Every path returns (position, 2) float64, (y, x) in object pixels about the origin, one position per step² of area.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]


def raster(n_positions: int, step_px: float) -> Positions:
    """Row by row over a square, as square as the number allows; the last row may be short."""
    columns = math.ceil(math.sqrt(n_positions))
    index = np.arange(n_positions)
    places = np.stack([index // columns, index % columns], axis=1).astype(np.float64)
    centred: Positions = (places - places.max(axis=0) / 2) * step_px
    return centred


def jittered(n_positions: int, step_px: float, jitter_px: float, rng: np.random.Generator) -> Positions:
    """A raster whose points are shifted at random by at most jitter_px along each axis.

    The shifts break the periodicity from which ptychography makes its raster-grid artefact (Thibault et al.,
    Ultramicroscopy 109, 338 (2009)).
    """
    return raster(n_positions, step_px) + rng.uniform(-jitter_px, jitter_px, (n_positions, 2))


def spiral(n_positions: int, step_px: float) -> Positions:
    """An Archimedean spiral: arms one step apart, points about one step apart along them."""
    index = np.arange(n_positions, dtype=np.float64)
    # An arm's length up to angle θ is about step · θ² / 4π; put equal to index · step.
    angle: Positions = np.sqrt(4 * math.pi * index)
    return _polar(step_px * angle / (2 * math.pi), angle)


def fermat(n_positions: int, step_px: float) -> Positions:
    """Fermat's spiral with the golden angle: the most even cover (Huang et al., Opt. Express 22, 12634 (2014))."""
    index = np.arange(n_positions, dtype=np.float64)
    golden_angle = math.pi * (3 - math.sqrt(5))
    return _polar(step_px * np.sqrt(index / math.pi), index * golden_angle)


def _polar(radius: Positions, angle: Positions) -> Positions:
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


PATHS: dict[str, Callable[[int, float, float, np.random.Generator], Positions]] = {
    "raster": lambda n, step, jitter, rng: raster(n, step),
    "jittered": jittered,
    "spiral": lambda n, step, jitter, rng: spiral(n, step),
    "fermat": lambda n, step, jitter, rng: fermat(n, step),
}
