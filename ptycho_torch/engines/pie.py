"""rPIE and ePIE in batches, with momentum from epoch to epoch."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.parallel import Ranks
from ptycho_torch.engines.estimate import Chunk
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.schedule import Momentum, damping, has_overshot, has_risen
from ptycho_torch.engines.sums import Sums, move
from ptycho_torch.engines.sweeping import SweepingEngine


class Pie(SweepingEngine):
    """The regularised ptychographical iterative engine.

    For each batch, O += s·Σ_j P*Δψ_j / ((1 − α)·w + α·max w) with w = Σ_j |P|² under each pixel; the probe likewise
    with Σ_j O_j* Δψ_j and Σ_j |O_j|² (Maiden, Johnson & Li 2017, eq. 21 and 22, summed over a batch). Sums over
    modes are inside numerators and w. Batches are made from the whole scan; ranks add their members' sums.

    In a thick object P is the light on a slice, and Δψ_j what its exit waves should change by, taken back from slice to
    slice by the adjoint of the flight (Maiden, Humphry & Rodenburg, J. Opt. Soc. Am. A 29, 1606 (2012), divide on the
    way). Every slice is asked to explain the whole residual, so s is divided by √(number of slices).
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
        super().__init__(problem, config, ranks, probe, object_start, seed=seed)
        self._object_momentum = Momentum(config.momentum, self.estimate.object)
        self._probe_momentum = Momentum(config.probe_momentum, self.estimate.probe)
        self._sums = Sums(self.estimate.object, self.estimate.probe, problem.tile, ranks.size)
        self._alpha = config.object_alpha(problem.mean_photons / problem.patch_size**2)

    def _step(self, epoch: int) -> float:
        return super()._step(epoch) * damping(self._history)

    def _sweep(self, epoch: int, step: float) -> float:
        moves_probe = self._moves_probe(epoch)
        self._before = self.estimate.object.clone(), self.estimate.probe.clone()
        missed = torch.zeros((), dtype=torch.float64, device=self._problem.device)
        every, last, batches = self.config.momentum_every, self._before, self._batches(epoch)
        if every is not None:
            # Few batches: momentum acts at least once an epoch.
            every = min(every, len(batches))
        for number, members in enumerate(batches, start=1):
            self._sums.clear()
            for rows in self._chunks(members):
                self._collect(rows, moves_probe)
            self._sums.share(self._ranks)
            missed += self._sums.missed
            self._update(step, moves_probe)
            if every is not None and number % every == 0:
                self._push_momenta(last, step, moves_probe)
                last = self.estimate.object.clone(), self.estimate.probe.clone()
        return float(missed)

    def _end_epoch(self, epoch: int, step: float) -> None:
        if has_risen(self._history):
            self._object_momentum.restart()
            self._probe_momentum.restart()
        # A sweep that overshot is not partly done again: that would go further uphill.
        if self.config.momentum_every is None and not has_overshot(self._history):
            self._push_momenta(self._before, step, self._moves_probe(epoch))
        del self._before

    def _push_momenta(self, before: tuple[Tensor, Tensor], step: float, moves_probe: bool) -> None:
        """Partly do again what was done since object and probe were as before."""
        self._object_momentum.push(self.estimate.object, before[0], step)
        if moves_probe:
            self._probe_momentum.push(self.estimate.probe, before[1], step)

    @property
    def canvas_names(self) -> tuple[str, ...]:
        """See `SweepingEngine`."""
        return (*super().canvas_names, "object_velocity")

    def _state(self) -> dict[str, Tensor]:
        velocities = {
            "object_velocity": self._object_momentum.velocity,
            "probe_velocity": self._probe_momentum.velocity,
        }
        return super()._state() | velocities

    def _collect(self, rows: Tensor, moves_probe: bool) -> None:
        """Add the numerators and weights of some frames of this rank to the batch's sums."""
        chunk = self.estimate.look(rows)
        change, missed = self.estimate.project(chunk)
        self._sums.missed += missed
        trace = self.estimate.trace(chunk, change)
        for correction in self.estimate.corrections:
            correction.see(trace)
        self._keep(chunk, change)
        if moves_probe:
            self._sums.add_probe(trace)
        self._sums.add_object(trace)

    def _keep(self, chunk: Chunk, change: Tensor) -> None:
        """Remember what a sibling's update needs of a chunk."""

    def _update(self, step: float, moves_probe: bool) -> None:
        """Move object and probe by the batch's sums."""
        sums, config, estimate = self._sums, self.config, self.estimate
        object_step = step * config.object_step / math.sqrt(config.slices)
        move(estimate.object, sums.object, sums.object_weight, self._alpha, object_step, sums.largest)
        if moves_probe:
            move(estimate.probe, sums.probe, sums.probe_weight, config.effective_probe_alpha, step * config.probe_step)
