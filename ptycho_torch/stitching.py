"""The canvas on which object patches are added up to one image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.grid import ObjectGrid
from ptycho.parallel import Ranks
from ptycho_torch.physics.patches import Windows, add_patches

# A pixel that saw less than this part of the largest coverage was lit by the far tail of the probe alone: float32
# sums can't tell its light from rounding, so it counts as not measured.
MINIMUM_COVERAGE = 1e-6

# Largest number of patch pixels, and of merged canvas pixels, handled at once: bounds the temporary memory.
_CHUNK_PX = 2**22


class Canvas:
    """Weighted sum of patches and sum of weights on an object grid.

    Both are linear in what is added, so batches, orders and ranks can be summed in any way; the one division is left
    to `image`. Memory is held only for the rectangle that patches have touched: a rank with a compact shard holds its
    piece of a large image.
    """

    def __init__(self, grid: ObjectGrid, window: int, device: torch.device | str = "cpu") -> None:
        """grid: where pixels lie; window: N, the largest patch size that will be added."""
        self.grid = grid
        self.window = window
        self._device = torch.device(device)
        self._corner = (0, 0)
        self._total = torch.zeros(0, 0, dtype=torch.complex64, device=self._device)
        self._weight = torch.zeros(0, 0, dtype=torch.float32, device=self._device)

    @property
    def n_bytes(self) -> int:
        """Memory that the canvas holds."""
        return 12 * self._weight.numel()

    @torch.no_grad()
    def add(
        self,
        patches: Tensor,
        positions_px: NDArray[np.float64],
        weights: Tensor,
        phasors: Tensor | None = None,
    ) -> None:
        """Add patches where they lie.

        patches:      (patch, y, x) complex, square, no larger than the window
        positions_px: (patch, 2) scan coordinates (y, x) of the patches' centres, index size // 2
        weights:      (y, x) or (patch, y, x) real, not negative; usually the probe's intensity
        phasors:      (patch,) unit complex numbers that multiply the patches, or None

        Raises ValueError when shapes do not fit or a patch leaves the grid.
        """
        size = self._checked_size(patches, positions_px, weights)
        if not len(patches):
            return
        corners = self.grid.corners_px(positions_px, size)
        if not self.grid.holds(positions_px, size):
            raise ValueError(
                f"patches of size {size} reach from {corners.min(0)} to {corners.max(0) + size}, outside the grid of "
                f"shape {self.grid.shape}; make the grid with ObjectGrid.covering(positions_px, {size})"
            )
        self._reserve(corners, size)
        windows = Windows.at(
            torch.from_numpy(corners - np.asarray(self._corner)).to(self._device), size, self._shape(self._weight)
        )
        step = max(1, _CHUNK_PX // (size + 1) ** 2)
        for start in range(0, len(patches), step):
            part = slice(start, start + step)
            weight = weights.to(self._device, torch.float32)
            weight = weight[part] if weights.ndim == 3 else weight.expand(len(patches[part]), size, size)
            weighted = patches[part].to(self._device, torch.complex64) * weight
            if phasors is not None:
                weighted = weighted * phasors[part, None, None].to(self._device, torch.complex64)
            # Patches and weights pass through the same adjoint, so that flat patches come back exactly flat.
            self._total += add_patches(weighted, windows[part], self._shape(self._total))
            self._weight += add_patches(weight, windows[part], self._shape(self._weight))

    @torch.no_grad()
    def merge(self, ranks: Ranks, *, everywhere: bool = True) -> None:
        """Replace the canvas by the sum over ranks, on every rank or on rank 0 alone. Every rank must call it once.

        Goes over the grid in bands of rows, so that beside the canvas only one band is held.
        """
        if ranks.size == 1:
            return
        height, width = self.grid.shape
        keep = everywhere or ranks.rank == 0
        if keep:
            total = torch.empty(height, width, dtype=torch.complex64, device=self._device)
            weight = torch.empty(height, width, dtype=torch.float32, device=self._device)
        n_rows = max(1, _CHUNK_PX // width)
        for top in range(0, height, n_rows):
            rows = slice(top, min(top + n_rows, height))
            band = self._band(rows)
            (ranks.all_sum if everywhere else ranks.sum_to_root)(band)
            if keep:
                total[rows] = torch.complex(band[0], band[1]).to(self._device)
                weight[rows] = band[2].to(self._device)
        if keep:
            self._corner, self._total, self._weight = (0, 0), total, weight

    @torch.no_grad()
    def image(self, fill: complex = 1) -> tuple[Tensor, Tensor]:
        """The object (y, x) complex64 on the whole grid, and its coverage (y, x) float32, the summed weights.

        Where nothing was measured the coverage is 0 and the object is `fill`.
        """
        coverage = torch.zeros(self.grid.shape, dtype=torch.float32, device=self._device)
        image = torch.full(self.grid.shape, fill, dtype=torch.complex64, device=self._device)
        if self._weight.numel():
            rows, columns = self._rectangle()
            lit = self._weight > MINIMUM_COVERAGE * self._weight.max()
            coverage[rows, columns] = torch.where(lit, self._weight, 0)
            image[rows, columns] = torch.where(lit, self._total / torch.where(lit, self._weight, 1), fill)
        return image, coverage

    def _checked_size(self, patches: Tensor, positions_px: NDArray[np.float64], weights: Tensor) -> int:
        n, height, size = patches.shape
        if height != size or size > self.window:
            raise ValueError(f"patches of {height} × {size}: they must be square and at most {self.window} wide")
        if positions_px.shape != (n, 2):
            raise ValueError(f"{n} patches but positions of shape {positions_px.shape}; one (y, x) each is needed")
        if tuple(weights.shape) not in ((size, size), (n, size, size)):
            raise ValueError(f"weights of shape {tuple(weights.shape)} do not fit patches of {tuple(patches.shape)}")
        return size

    @staticmethod
    def _shape(tensor: Tensor) -> tuple[int, int]:
        return tensor.shape[0], tensor.shape[1]

    def _rectangle(self) -> tuple[slice, slice]:
        """Rows and columns of the grid for which memory is held."""
        (top, left), (height, width) = self._corner, self._shape(self._weight)
        return slice(top, top + height), slice(left, left + width)

    def _reserve(self, corners_px: NDArray[np.float64], size: int) -> None:
        """Make the held rectangle hold every window, with its one-pixel bilinear edge."""
        limit = np.asarray(self.grid.shape)
        low = np.floor(corners_px.min(axis=0)).astype(int)
        high = np.minimum(np.ceil(corners_px.max(axis=0)).astype(int) + size, limit)
        held_low = np.asarray(self._corner)
        held_high = held_low + self._weight.shape
        if self._weight.numel():
            if (low >= held_low).all() and (high <= held_high).all():
                return
            # Growing by a quarter keeps the number of copies logarithmic in the area.
            grow = (held_high - held_low) // 4
            low = np.where(low < held_low, np.maximum(np.minimum(low, held_low - grow), 0), held_low)
            high = np.where(high > held_high, np.minimum(np.maximum(high, held_high + grow), limit), held_high)
        shape = (int(high[0] - low[0]), int(high[1] - low[1]))
        old_total, old_weight, (rows, columns) = self._total, self._weight, self._rectangle()
        self._corner = (int(low[0]), int(low[1]))
        self._total, self._weight = old_total.new_zeros(shape), old_weight.new_zeros(shape)
        if old_weight.numel():
            here = np.s_[rows.start - low[0] : rows.stop - low[0], columns.start - low[1] : columns.stop - low[1]]
            self._total[here], self._weight[here] = old_total, old_weight

    def _band(self, rows: slice) -> Tensor:
        """Real, imaginary part and weight (3, rows, width) of some rows of the grid, on the CPU."""
        band = torch.zeros(3, rows.stop - rows.start, self.grid.shape[1])
        held_rows, columns = self._rectangle()
        top, bottom = max(rows.start, held_rows.start), min(rows.stop, held_rows.stop)
        if top < bottom:
            mine = slice(top - held_rows.start, bottom - held_rows.start)
            there = band[:, top - rows.start : bottom - rows.start, columns]
            there[0], there[1] = self._total[mine].real, self._total[mine].imag
            there[2] = self._weight[mine]
        return band
