"""How steps and momentum change from epoch to epoch, and when to stop."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.errors import WorkError

# Smallest part of the step that annealing leaves.
_LAST_STEP = 0.05
# A rise of the R-factor from one epoch to the next that shows too much momentum, not noise.
_RISE = 1.01
# A rise above the least R-factor so far that shows steps which overshoot: photon noise alone lifts it by less, in the
# first epochs of a low-dose scan by 8 %. What it leaves of the step, and how fast quiet epochs give it back.
_OVERSHOT, _DAMPED, _RECOVERY = 1.15, 0.5, 1.15
# Converged: the R-factor fell by less than this part over so many epochs.
_PLATEAU, _PLATEAU_EPOCHS = 1e-3, 3
# R-factor relative to the first epoch's, and at least 1 (no light explained), at which nothing can be saved.
_DIVERGED = 3.0


def annealed_step(epoch: int, config: RefineConfig) -> float:
    """Part of the full step in an epoch (from 1): 1, then half a cosine down to its last value."""
    start = config.anneal_from * config.epochs
    if epoch <= start:
        return 1.0
    done = min(1.0, (epoch - start) / max(config.epochs - start, 1))
    return _LAST_STEP + (1 - _LAST_STEP) * 0.5 * (1 + math.cos(math.pi * done))


def check_convergence(history: list[float], config: RefineConfig) -> bool:
    """Whether to stop after the epochs of which `history` holds the R-factors. Raises WorkError when they diverged."""
    epoch, last = len(history), history[-1]
    if not math.isfinite(last) or last > max(1.0, _DIVERGED * history[0]):
        before = history[-2] if epoch > 1 else last
        raise WorkError(
            f"The iterative engine diverged in epoch {epoch}: R-factor {last:.3g} after {before:.3g}."
            " Check probe, positions and mask; if they are right, lower refine.momentum or refine.object_step,"
            " or set refine.probe_start_epoch = 5."
        )
    annealed = annealed_step(epoch, config) < 0.5
    if not config.stop_at_plateau or not annealed or epoch <= _PLATEAU_EPOCHS:
        return False
    return last > (1 - _PLATEAU) * history[-1 - _PLATEAU_EPOCHS]


class Momentum:
    """Momentum at the epoch level: what a whole sweep did is partly done again (Maiden, Johnson & Li 2017; Nesterov).

    share: part of the velocity that is kept
    """

    def __init__(self, share: float, like: Tensor) -> None:
        self.share = share
        self.velocity = torch.zeros_like(like)

    def push(self, value: Tensor, before: Tensor, step: float) -> None:
        """Move `value` on in place. before: its value before the sweep; step: part of momentum that annealing left."""
        share = self.share * step
        if share == 0:
            return
        self.velocity.mul_(share).add_(value).sub_(before)
        value.add_(self.velocity, alpha=share)

    def restart(self) -> None:
        """Forget the velocity: it pointed uphill."""
        self.velocity.zero_()


def damping(history: list[float]) -> float:
    """Part of the step that earlier overshoots leave: halved by each, slowly given back by every epoch without one.

    It follows from the R-factors alone, so a resumed engine goes on with the same step.
    """
    part = 1.0
    for epoch in range(2, len(history) + 1):
        part = part * _DAMPED if has_overshot(history[:epoch]) else min(1.0, part * _RECOVERY)
    return part


def has_overshot(history: list[float]) -> bool:
    """Whether the last epoch went uphill, far above the least R-factor so far."""
    return has_risen(history) and history[-1] > _OVERSHOT * min(history)


def has_risen(history: list[float]) -> bool:
    """Whether the last epoch's R-factor is above the one before by more than noise."""
    return len(history) > 1 and history[-1] > _RISE * history[-2]
