"""The schedule that was measured to be best: rPIE while it is fast, then L-BFGS to the likeliest object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage
from ptycho.parallel import Ranks
from ptycho_torch.engines.gradient import Gradient
from ptycho_torch.engines.interface import EpochResult
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import Problem

# Part of the epochs that rPIE gets before L-BFGS, where photons are many; with few, the likeliest object is noise.
_PIE_SHARE = 0.5
_ENOUGH_PHOTONS_PER_PX = 20.0


class Auto:
    """rPIE with momentum for the first epochs, then L-BFGS on all frames; rPIE alone, annealed, where photons are few.

    Both work on one estimate, and the state is that of both.
    """

    def __init__(
        self,
        problem: Problem,
        config: RefineConfig,
        ranks: Ranks,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """See `SweepingEngine`."""
        self.config = config
        is_bright = problem.mean_photons / problem.patch_size**2 >= _ENOUGH_PHOTONS_PER_PX
        self._n_pie = round(_PIE_SHARE * config.epochs) if is_bright and config.epochs > 3 else config.epochs
        n_last = config.epochs - self._n_pie
        pie = replace(
            config, engine="rpie", epochs=max(self._n_pie, 1), stop_at_plateau=config.stop_at_plateau and not n_last
        )
        last = replace(config, engine="gradient", optimizer="lbfgs", epochs=max(n_last, 1), anneal_from=0.0)
        self._pie = Pie(problem, pie, ranks, probe, object_start, seed=seed)
        self._last = Gradient(problem, last, ranks, probe, object_start, seed=seed)
        self._last.estimate = self._pie.estimate
        self._done = 0

    @property
    def grid(self) -> ObjectGrid:
        return self._pie.grid

    @property
    def object(self) -> NDArray[np.complex64]:
        """(y, x) transmission on `grid`; the probe has the photons of the data."""
        return self._pie.object

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(mode, y, x), sqrt(photons), orthogonal modes, strongest first."""
        return self._pie.probe

    def image(self) -> ObjectImage:
        """Object, probe and coverage (photons per object pixel). Every rank must call it."""
        return self._pie.image()

    def run_epoch(self, epoch: int) -> EpochResult:
        """Sweep once over all frames; see `Engine.run_epoch`."""
        if epoch <= self._n_pie:
            return self._pie.run_epoch(epoch)
        return replace(self._last.run_epoch(epoch - self._n_pie), epoch=epoch)

    def state_dict(self) -> dict[str, Tensor]:
        """The states of both engines, as copies on the CPU."""
        return {
            f"{part}_{name}": tensor
            for part, engine in (("pie", self._pie), ("last", self._last))
            for name, tensor in engine.state_dict().items()
        }

    def frame_state_dict(self) -> dict[str, Tensor]:
        """What corrections keep of each frame."""
        return self._pie.frame_state_dict()

    def load_state_dict(self, state: dict[str, Tensor], frame_state: dict[str, Tensor] | None = None) -> None:
        """Go on exactly where the states were taken. Raises ValueError when they are of another problem."""
        for part, engine in (("pie", self._pie), ("last", self._last)):
            own = {name.removeprefix(f"{part}_"): tensor for name, tensor in state.items() if name.startswith(part)}
            engine.load_state_dict(own, frame_state)
