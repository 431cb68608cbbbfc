"""The object grid: where the pixels of an object image lie in scan coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ObjectGrid:
    """A pixel grid in scan coordinates.

    shape:     (height, width) in object pixels
    origin_px: (y, x) scan coordinate of the centre of pixel (0, 0)
    """

    shape: tuple[int, int]
    origin_px: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def covering(cls, positions_px: NDArray[np.float64], window: int, margin: int = 2) -> ObjectGrid:
        """The smallest grid on which every window fits, with a margin for bilinear edges and small moves.

        positions_px: (position, 2) window centres (y, x); the centre of a window of size N is its index N // 2
        """
        low = np.floor(positions_px.min(axis=0)) - window // 2 - margin
        high = np.ceil(positions_px.max(axis=0)) + (window - window // 2) + margin
        height, width = (high - low).astype(int)
        return cls(shape=(int(height), int(width)), origin_px=(float(low[0]), float(low[1])))

    def corners_px(self, positions_px: NDArray[np.float64], window: int) -> NDArray[np.float64]:
        """Index (y, x), fractional, of the first pixel of each window: (position, 2)."""
        corners: NDArray[np.float64] = positions_px - np.asarray(self.origin_px) - window // 2
        return corners

    def holds(self, positions_px: NDArray[np.float64], window: int) -> bool:
        """Whether every window, with its one-pixel bilinear edge, lies on the grid."""
        corners = self.corners_px(positions_px, window)
        edge = np.floor(corners).astype(int) + window + (corners % 1 > 0)
        return bool((corners >= 0).all() and (edge <= np.asarray(self.shape)).all())
