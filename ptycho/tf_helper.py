"""Stitching as older programs call it. The name is theirs; no TensorFlow is behind it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class StitchablePatches(Protocol):
    """Patches that know their scan: what our model's `predict` returns."""

    def stitched(self) -> NDArray[np.complex64]:
        """The object (y, x)."""
        ...


def reassemble_position(patches: StitchablePatches, global_offsets: Any, M: int = 20) -> NDArray[np.complex64]:
    """The object (y, x) complex64 of patches, on the pixels of the objectGuess of their scan; 1 where no light fell.

    global_offsets, M: without effect (see docs/clients.md): the patches know their positions and the probe, by whose
    intensity they are weighted. Raises TypeError for anything but what our model's `predict` returned.
    """
    if not hasattr(patches, "stitched"):
        raise TypeError(
            f"reassemble_position: {type(patches).__name__} given, but the result of the model's predict is needed."
        )
    return patches.stitched()
