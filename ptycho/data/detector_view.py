"""How a scan's frames lie on the detector: what turns an image of the whole detector into one of the frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.data.frames import window
from ptycho.data.orientation import Axes, turned_images


@dataclass(frozen=True, kw_only=True)
class DetectorView:
    """The steps that were taken with every frame when it was read, in their order.

    shape:     (height, width) of the detector
    shifted:   zero frequency was moved from [0, 0] to the middle
    centre_px: (y, x) of the pixel around which the square was cut
    size:      side of the square
    axes:      how the square was turned
    dark:      (y, x) of the detector in counts: the dark signal that the file records and that no frame is free of yet
    """

    shape: tuple[int, int]
    shifted: bool = False
    centre_px: tuple[int, int]
    size: int
    axes: Axes = "yx"
    dark: NDArray[np.float32] | None = field(default=None, compare=False)

    def see(self, image: NDArray[Any]) -> NDArray[Any]:
        """The image (size, size) as the frames show it, of an image of the detector; 0 beyond its edges."""
        seen = np.fft.fftshift(image) if self.shifted else image
        return turned_images(window(seen, self.centre_px, self.size), self.axes)
