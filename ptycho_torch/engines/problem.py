"""The data of one rank on its device: what an iterative engine works on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import Batching
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan
from ptycho.data.sharding import compact_batches, hilbert_order, stratified_batches, uniform_batches
from ptycho.errors import DataError
from ptycho.parallel import Ranks
from ptycho_torch.engines.memory import free_bytes
from ptycho_torch.engines.streaming import StreamedAmplitude, amplitudes
from ptycho_torch.engines.tiles import Tile
from ptycho_torch.physics.patches import Windows
from ptycho_torch.physics.propagate import Propagator

# Frames are read this many bytes at a time, so that reading needs little more memory than keeping.
_READ_BYTES = 2**18


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Measured amplitudes of the frames that this rank owns, and where they lie in the whole scan.

    amplitude:    (owned, y, x) float32 √counts, in the propagator's order, zero where masked; in memory, or streamed
                  from the file
    good:         (y, x) float32, in the same order, 1 where a pixel counts and 0 where it does not; None when all do
    corners_px:   (owned, 2) float64 (y, x) of each window's first pixel on the grid
    frame_index:  (owned,) scan index of each frame
    order:        (n_total,) scan indices of all frames along a space-filling curve, the same on every rank
    mean_photons: counts on good pixels per frame, mean over the whole scan
    amplitude_sum: Σ√counts over the whole scan
    mean_counts:  (y, x) float32, mean over the whole scan, in the amplitudes' order, zero where masked
    propagator:   from exit waves to detector waves
    geometry:     of the measurement
    tile:         the part of the whole object that this rank holds, whose grid `grid` then is; None: all of it
    """

    amplitude: Tensor | StreamedAmplitude
    good: Tensor | None
    corners_px: Tensor
    frame_index: NDArray[np.int64]
    order: NDArray[np.int64]
    grid: ObjectGrid
    mean_photons: float
    amplitude_sum: float
    mean_counts: Tensor
    propagator: Propagator = field(default_factory=Propagator)
    geometry: Geometry = field(default_factory=Geometry)
    tile: Tile | None = None

    @property
    def n_total(self) -> int:
        """Frames of the whole scan, over all ranks."""
        return len(self.order)

    @property
    def patch_size(self) -> int:
        """N: frames, probe and object patches are N × N."""
        return self.amplitude.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.amplitude.device

    @property
    def whole_grid(self) -> ObjectGrid:
        """The grid of the whole object."""
        return self.grid if self.tile is None else self.tile.whole

    @property
    def whole_corners_px(self) -> Tensor:
        """The corners on the whole grid."""
        return self.corners_px + self.corners_px.new_tensor((0, 0) if self.tile is None else self.tile.start)

    def plan(self, chunks: Iterable[Tensor]) -> None:
        """Announce the rows that will be looked at next, chunk by chunk, so that streamed frames are read ahead."""
        if isinstance(self.amplitude, StreamedAmplitude):
            self.amplitude.plan(chunks)

    def windows(self) -> Windows:
        """Where the owned frames' windows lie on the grid."""
        return Windows.at(self.corners_px, self.patch_size, self.grid.shape)

    def batches(self, batch_size: int, seed: int, epoch: int, batching: Batching = "sparse") -> list[Tensor]:
        """Rows of `amplitude` of each batch's members on this rank, for one epoch.

        The batches are made from the whole scan, so they do not depend on the number of ranks; members may be none.
        """
        row_of_frame = np.full(self.n_total, -1, dtype=np.int64)
        row_of_frame[self.frame_index] = np.arange(len(self.frame_index))
        make = {"sparse": stratified_batches, "compact": compact_batches, "uniform": uniform_batches}[batching]
        members = (row_of_frame[batch] for batch in make(self.order, batch_size, np.random.default_rng([seed, epoch])))
        return [torch.from_numpy(rows[rows >= 0]).to(self.device) for rows in members]


def load_problem(
    scan: Scan,
    owned: NDArray[np.int64],
    ranks: Ranks,
    device: torch.device | str = "cpu",
    memory_limit_mb: float | None = None,
    *,
    tile_room_px: int | None = None,
) -> Problem:
    """Read this rank's frames. Every rank must call it; together they own every frame once.

    owned: scan indices of the frames that this rank reads and keeps
    memory_limit_mb: largest size of the amplitudes to keep; if they are larger they stay in the file and are read
        again in every epoch. None: half of what the device, or this machine divided by the ranks, has free
    tile_room_px: each rank holds a tile of the object, in which its windows may move that far; None: it holds all of it

    Raises DataError for unreadable frames or a scan without counts, ValueError when frames are owned twice or by none.
    """
    size, grid = scan.patch_size, scan.grid
    tile = None
    if tile_room_px is not None and ranks.size > 1:
        tile = Tile.around(grid.corners_px(scan.positions_px[owned], size), size, grid, tile_room_px, ranks)
        grid = tile.grid
    propagator = Propagator.of(scan.geometry, size, device)
    bad = None if scan.mask is None or scan.mask.all() else torch.from_numpy(~scan.mask)
    n_bytes = 4 * len(owned) * size * size
    limit = memory_limit_mb * 1e6 if memory_limit_mb is not None else _default_limit_bytes(ranks, device)
    kept = torch.empty(len(owned), size, size, device=device) if n_bytes <= limit else None
    # Per-frame tallies would not fit many frames; these three do: frames owned, counts, amplitudes.
    sums = np.zeros(3)
    counts = torch.zeros(size, size, dtype=torch.float64)
    step = max(1, _READ_BYTES // (4 * size * size))
    # In the file's order: neighbours on the space-filling curve lie far apart in it.
    for part in np.split(np.argsort(owned), range(step, len(owned), step)):
        root = amplitudes(scan.frames.read(owned[part]), bad, propagator)
        counts_here = root.square().sum(0, dtype=torch.float64)
        counts += counts_here
        sums += (len(root), counts_here.sum().item(), root.sum(dtype=torch.float64).item())
        if kept is not None:
            kept[torch.from_numpy(part).to(device)] = root.to(device)
    ranks.all_sum(sums)
    ranks.all_sum(counts)
    if sums[0] != scan.n_positions:
        raise ValueError(
            f"the ranks own {sums[0]:.0f} frames of a scan of {scan.n_positions}; each must have one owner"
        )
    if not sums[1] > 0:
        raise DataError(f"{scan.path or scan.name}: no counts on any good pixel; check the frames and the mask.")
    return Problem(
        amplitude=kept if kept is not None else StreamedAmplitude(scan.frames, owned, bad, propagator, device),
        good=None if bad is None else propagator.to_device_order((~bad).float()).to(device).contiguous(),
        corners_px=torch.from_numpy(grid.corners_px(scan.positions_px[owned], size)).to(device),
        frame_index=owned,
        order=hilbert_order(scan.positions_px),
        grid=grid,
        mean_photons=float(sums[1] / scan.n_positions),
        amplitude_sum=float(sums[2]),
        mean_counts=(counts / scan.n_positions).float().to(device),
        propagator=propagator,
        geometry=scan.geometry,
        tile=tile,
    )


def _default_limit_bytes(ranks: Ranks, device: torch.device | str) -> float:
    """Half of what is free, shared with the ranks that may be on this machine; a GPU is each rank's own."""
    return free_bytes(device) / 2 / (1 if torch.device(device).type == "cuda" else ranks.size)
