"""Difference map and RAAR: every frame keeps its exit wave, and all frames are projected at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.errors import RequestError
from ptycho.parallel import Ranks
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.streaming import StreamedAmplitude
from ptycho_torch.engines.sums import Sums, move
from ptycho_torch.engines.sweeping import SweepingEngine

# Part of the strongest weight added under object and probe: pixels with hardly any light keep their value.
_INERTIA = 1e-3


class Projections(SweepingEngine):
    """Relaxed reflections between what explains the counts and what overlapping frames agree on.

    ψ_j ← β·[ψ_j + Π(2·P·O_j − ψ_j)] + (1 − 2β)·P·O_j, with Π the modulus projection; then O and P are the least-squares
    fit to all ψ, one after the other. β = 1 is the difference map (Thibault et al., Ultramicroscopy 109, 338 (2009),
    eq. 7), β < 1 is RAAR (Luke, Inverse Problems 21, 37 (2005)). Annealing takes β towards 1/2, where the iteration
    settles instead of wandering within the noise.

    All sums run over the whole scan, so the number of ranks changes nothing but their order.
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
        if isinstance(problem.amplitude, StreamedAmplitude):
            raise RequestError(
                f'Engine "{config.engine}" keeps an exit wave of every frame, and not even the frames fit into memory.'
                ' Choose engine = "rpie", use more ranks, or raise refine.memory_limit_mb.'
            )
        super().__init__(problem, config, ranks, probe, object_start, seed=seed)
        self._rows = torch.arange(len(problem.frame_index), device=problem.device)
        n_modes, size = len(self.estimate.probe), problem.patch_size
        self._waves = torch.empty(len(self._rows), n_modes, size, size, dtype=torch.complex64, device=problem.device)
        for rows in self._chunks(self._rows):
            self._waves[rows] = self.estimate.look(rows).waves
        self._sums = Sums(self.estimate.object, self.estimate.probe, problem.tile, ranks.size)

    def _sweep(self, epoch: int, step: float) -> float:
        estimate, sums = self.estimate, self._sums
        relaxation = 0.5 + (self.config.effective_relaxation - 0.5) * step
        sums.clear()
        for rows in self._chunks(self._rows):
            self._reflect(rows, relaxation)
        sums.share(self._ranks)
        missed = float(sums.missed)
        move(estimate.object, sums.object, sums.object_weight, _INERTIA, 1.0, sums.largest)
        if self._moves_probe(epoch):
            sums.clear()
            for rows in self._chunks(self._rows):
                chunk = estimate.look(rows)
                sums.add_probe([(chunk, self._waves[rows] - chunk.waves)])
            sums.share_probe(self._ranks)
            move(estimate.probe, sums.probe, sums.probe_weight, _INERTIA, 1.0)
        return missed

    def _reflect(self, rows: Tensor, relaxation: float) -> None:
        """Move the exit waves of some frames, and add the object's numerator and weight."""
        chunk = self.estimate.look(rows)
        change, missed = self.estimate.project(chunk)
        self._sums.missed += missed
        for correction in self.estimate.corrections:
            correction.see([(chunk, change)])
        waves = self._waves[rows]
        reflected = 2 * chunk.waves - waves
        change, _ = self.estimate.project(chunk, reflected)
        # β·ψ + β·Π(r) + (1 − 2β)·m with r = 2m − ψ and Π(r) = r + change is m + β·change, less work than it looks.
        moved = chunk.waves + relaxation * change
        self._waves[rows] = moved
        self._sums.add_object([(chunk, moved - chunk.waves)])

    def _frame_state(self) -> dict[str, Tensor]:
        return super()._frame_state() | {"waves": self._waves}
