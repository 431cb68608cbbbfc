"""What every iterative engine offers: sweeps, a state that can be kept, an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage
from ptycho_torch.engines.tiles import Tile


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """One sweep over all frames.

    r_factor:     Σ|√k − √λ| / Σ√k over all frames and good pixels, each frame as it was met during the sweep
    seconds:      wall-clock time
    step:         part of the full step that annealing left
    is_converged: whether further sweeps are not expected to change the image
    sent_bytes:   what this rank handed to other ranks; communication_s: time in that, waiting for slower ranks included
    """

    epoch: int
    r_factor: float
    seconds: float
    step: float
    is_converged: bool
    sent_bytes: int = 0
    communication_s: float = 0.0


class Engine(Protocol):
    """An iterative reconstruction of one scan. Built on every rank from `Problem`, `RefineConfig`, ranks and starts.

    Every rank calls `run_epoch`, `object` and `image` together. All ranks hold the same probe, and the same object
    unless each holds a tile of it; then rank 0 is given the whole object, and the others their tiles.
    """

    @property
    def grid(self) -> ObjectGrid:
        """Where the whole object's pixels lie."""
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
        """Object, probe and coverage."""
        ...

    @property
    def tile(self) -> Tile | None:
        """The part of the object that this rank holds; None: every rank holds the whole object."""
        ...

    @property
    def canvas_names(self) -> tuple[str, ...]:
        """The tensors (…, y, x) of `state_dict` that lie on the object's grid, or on the tile's."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next epoch depends on and every rank holds alike, but for tiles: tensors that are copies."""
        ...

    def frame_state_dict(self) -> dict[str, Tensor]:
        """What the next epoch depends on of this rank's own frames: copies (owned frame, …), in their order."""
        ...

    def load_state_dict(self, state: dict[str, Tensor], frame_state: dict[str, Tensor] | None = None) -> None:
        """Go on where the states were taken, exactly. Raises ValueError when they are of another problem."""
        ...
