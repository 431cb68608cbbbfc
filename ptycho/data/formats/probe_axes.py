"""The axes of a probe, which files store with more or fewer of them in front."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import DataError


def as_modes(probe: NDArray[Any], what: str) -> NDArray[np.complex64]:
    """(mode, y, x) of a probe (y, x), (mode, y, x) or (variation, mode, y, x), of which the first variation is taken.

    what: the file and the name in it, for messages. Raises DataError for other shapes and for what is no number.
    """
    axes = [length for length in probe.shape[:-2] if length != 1]
    if probe.ndim < 2 or 0 in probe.shape or len(axes) > 2 or probe.dtype.kind not in "iufc":
        raise DataError(
            f"{what} has shape {probe.shape} and type {probe.dtype}; it must be numbers with axes (mode, y, x)."
        )
    first = probe.reshape(*axes, *probe.shape[-2:]) if probe.ndim > 4 else probe
    first = first[0] if first.ndim == 4 else first
    return np.ascontiguousarray(first.reshape(-1, *first.shape[-2:]), dtype=np.complex64)
