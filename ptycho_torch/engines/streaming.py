"""Measured amplitudes that stay in the scan's file and are read when an engine looks at them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.scan import Frames
from ptycho_torch.physics.propagate import Propagator

# Chunks read ahead of the one in work: one to be ready, one under way.
_AHEAD = 2


class StreamedAmplitude:
    """√counts of this rank's frames (owned, y, x), in the propagator's order, zero where masked.

    It has the few methods of a tensor that engines use, and none of the memory.

    Chunks that were announced by `plan` are read by a thread while others are worked on, into page-locked memory
    where they go to a GPU.
    """

    def __init__(
        self,
        frames: Frames,
        owned: NDArray[np.int64],
        bad: Tensor | None,
        propagator: Propagator,
        device: torch.device | str = "cpu",
    ) -> None:
        """owned: scan indices, one per row; bad: (y, x) bool, centred, True where a pixel does not count, or None."""
        self.device = torch.device(device)
        self.shape = torch.Size((len(owned), *frames.shape[1:]))
        self._frames, self._owned, self._bad, self._propagator = frames, owned, bad, propagator
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._planned: deque[Tensor] = deque()
        self._ahead: deque[tuple[Tensor, Future[Tensor]]] = deque()

    def __len__(self) -> int:
        return self.shape[0]

    def plan(self, chunks: Iterable[Tensor]) -> None:
        """Announce the rows of the chunks that will be asked for next, in this order; earlier plans are dropped."""
        self._planned = deque(rows.cpu() for rows in chunks)
        self._ahead.clear()
        self._read_ahead()

    def index_select(self, dimension: int, rows: Tensor) -> Tensor:
        """The amplitudes (len(rows), y, x) of some rows, on the device. dimension: 0, as of a tensor."""
        if dimension != 0:
            raise ValueError(f"frames are chosen along dimension 0, not {dimension}")
        wanted = rows.cpu()
        if self._ahead and torch.equal(self._ahead[0][0], wanted):
            amplitude = self._ahead.popleft()[1].result()
            self._read_ahead()
        else:
            # Through the same thread: files are not read by two threads at once.
            amplitude = self._reader.submit(self._read, wanted).result()
        return amplitude.to(self.device, non_blocking=True)

    def _read_ahead(self) -> None:
        while self._planned and len(self._ahead) < _AHEAD:
            rows = self._planned.popleft()
            self._ahead.append((rows, self._reader.submit(self._read, rows)))

    def _read(self, rows: Tensor) -> Tensor:
        amplitude = amplitudes(self._frames.read(self._owned[rows.numpy()]), self._bad, self._propagator)
        return amplitude.pin_memory() if self.device.type == "cuda" else amplitude


def amplitudes(counts: NDArray[np.generic], bad: Tensor | None, propagator: Propagator) -> Tensor:
    """√counts (position, y, x) float32 in the propagator's order, zero where bad (y, x); counts: as files hold them."""
    values = torch.from_numpy(counts.astype(np.float32))
    if bad is not None:
        values.masked_fill_(bad, 0)
    return propagator.to_device_order(values.sqrt_())
