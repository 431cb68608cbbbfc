"""What every iterative engine offers: sweeps, a state that can be kept, an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One sweep over all frames.

    r_factor:     Σ|√k − √λ| / Σ√k over all frames and good pixels, each frame as it was met during the sweep
    seconds:      wall-clock time
    step:         part of the full step that annealing left
    is_converged: whether further sweeps are not expected to change the image
    """

    epoch: int
    r_factor: float
    seconds: float
    step: float
    is_converged: bool


class Engine(Protocol):
    """An iterative reconstruction of one scan. Built on every rank from `Problem`, `RefineConfig`, ranks and starts.

    Every rank calls `run_epoch` and `image` together; all ranks then hold the same object and probe.
    """

    @property
    def grid(self) -> ObjectGrid:
        """Where the object's pixels lie."""
        ...

    @property
    def object(self) -> NDArray[np.complex64]:
        """(y, x) transmission on `grid`, in the gauge of |O| ≈ 1."""
        ...

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(mode, y, x), sqrt(photons), orthogonal modes, strongest first."""
        ...

    def run_epoch(self, epoch: int) -> EpochResult:
        """Sweep once over all frames. epoch: from 1; the order of frames depends on it and the seed alone.

        Raises WorkError when the reconstruction has diverged.
        """
        ...

    def image(self) -> ObjectImage:
        """Object, probe and coverage. Every rank must call it."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next epoch depends on and every rank holds alike: tensors that are copies."""
        ...

    def frame_state_dict(self) -> dict[str, Tensor]:
        """What the next epoch depends on of this rank's own frames: copies (owned frame, …), in their order."""
        ...

    def load_state_dict(self, state: dict[str, Tensor], frame_state: dict[str, Tensor] | None = None) -> None:
        """Go on where the states were taken, exactly. Raises ValueError when they are of another problem."""
        ...
