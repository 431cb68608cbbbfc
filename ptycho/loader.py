"""Grouped data as older programs hand them to a model. A thin door: nothing is computed before a model asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Releases up to 1.4 of ptychodus use these two without importing them.
import ptycho.probe
import ptycho.tf_helper  # noqa: F401
from ptycho.raw_data import GroupedData


class Amplitudes:
    """Normalised amplitudes (group, y, x, frame) of a scan, times a factor; an array is made only when asked for.

    Their mean square is 1/4 over the scan, so times `intensity_scale` of a model they are √counts at its own dose.
    """

    def __init__(self, data: GroupedData, factor: float = 1.0) -> None:
        self.scan, self._data, self._factor = data.scan, data, factor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        n, frames = self._data.groups.shape
        return n, self.scan.patch_size, self.scan.patch_size, frames

    def __len__(self) -> int:
        return self.shape[0]

    def __mul__(self, factor: float) -> Amplitudes:
        return Amplitudes(self._data, self._factor * float(factor))

    __rmul__ = __mul__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        frames = np.sqrt(np.asarray(self.scan.frames.read(np.arange(self.scan.n_positions)), np.float32))
        frames *= self._factor / (2 * np.sqrt(np.square(frames).mean(dtype=np.float64)))
        return np.asarray(np.moveaxis(frames[self._data.groups], 1, -1), dtype=dtype)


@dataclass(frozen=True)
class PtychoDataContainer:
    """What a model takes.

    X:              amplitudes (group, y, x, frame)
    global_offsets: (group, 1, 2, 1) object pixels, (y, x) of each group's first window
    local_offsets:  (group, 1, 2, frame) object pixels, (y, x) of each window from the group's first
    """

    X: Amplitudes
    global_offsets: NDArray[np.float64]
    local_offsets: NDArray[np.float64]
    probe: NDArray[np.complex64]


def load(
    make_data: Callable[[], GroupedData], probeGuess: Any, which: str | None = None, create_split: bool = False
) -> PtychoDataContainer:
    """The container of what `RawData.generate_grouped_data` returned, under this probe (y, x) or (mode, y, x).

    which: without effect where nothing is split. Raises ValueError for create_split, DataError for an unusable probe.
    """
    if create_split:
        raise ValueError("create_split = True: training holds out a region of the scan itself; leave it False.")
    data = make_data()
    probe = np.asarray(probeGuess, np.complex64)
    data = replace(data, scan=replace(data.scan, probe=probe.reshape(-1, *probe.shape[-2:])))
    windows = data.scan.positions_px[data.groups]
    return PtychoDataContainer(
        X=Amplitudes(data),
        global_offsets=windows[:, None, 0, :, None],
        local_offsets=np.moveaxis(windows - windows[:, :1], 1, -1)[:, None],
        probe=probe,
    )
