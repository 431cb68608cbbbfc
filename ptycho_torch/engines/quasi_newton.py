"""L-BFGS with a fixed amount of memory, all of which can be kept in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Pairs of step and change of gradient that are remembered.
_MEMORY = 8
# Armijo: share of the decrease that the slope promises which is enough. Halvings tried before the memory is dropped.
_ENOUGH, _HALVINGS = 1e-4, 20


class Lbfgs:
    """Limited-memory BFGS (Nocedal, Math. Comp. 35, 773 (1980)) with backtracking (Armijo)."""

    def __init__(self, n: int, device: torch.device) -> None:
        """n: real unknowns."""
        self._steps = torch.zeros(_MEMORY, n, device=device)
        self._changes = torch.zeros(_MEMORY, n, device=device)
        self._n_pairs = torch.zeros((), dtype=torch.int64)
        self._gradient = torch.zeros(n, device=device)
        self._value = torch.full((), torch.nan, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves, by name."""
        return {
            "lbfgs_steps": self._steps,
            "lbfgs_changes": self._changes,
            "lbfgs_n_pairs": self._n_pairs,
            "lbfgs_gradient": self._gradient,
            "lbfgs_value": self._value,
        }

    def step(self, start: Tensor, evaluate: Callable[[Tensor], tuple[float, Tensor]]) -> Tensor:
        """The unknowns after one iteration from `start` (n,). evaluate: value and gradient at given unknowns."""
        if bool(self._value.isnan()):
            self._remember(*evaluate(start))
        for _ in range(2):
            direction = self._direction()
            slope = float(direction @ self._gradient)
            length = 1.0
            for _ in range(_HALVINGS):
                there = start + length * direction
                value, gradient = evaluate(there)
                if value <= float(self._value) + _ENOUGH * length * slope:
                    self._push(there - start, gradient - self._gradient)
                    self._remember(value, gradient)
                    return there
                length /= 2
            # No progress along it: forget the curvature, and go straight downhill once more.
            self._n_pairs.zero_()
        evaluate(start)
        return start

    def _remember(self, value: float, gradient: Tensor) -> None:
        self._value.fill_(value)
        self._gradient.copy_(gradient)

    def _push(self, step: Tensor, change: Tensor) -> None:
        if float(step @ change) <= 1e-10 * float(step.norm() * change.norm()):
            return
        at = int(self._n_pairs) % _MEMORY
        self._steps[at], self._changes[at] = step, change
        self._n_pairs += 1

    def _direction(self) -> Tensor:
        """−H·gradient by the two-loop recursion; without memory, a quarter of the steepest descent."""
        n_pairs = int(self._n_pairs)
        pairs = [index % _MEMORY for index in range(max(0, n_pairs - _MEMORY), n_pairs)]
        direction = -self._gradient
        shares: list[float] = []
        for at in reversed(pairs):
            step, change = self._steps[at], self._changes[at]
            shares.append(float(step @ direction) / float(step @ change))
            direction = direction - shares[-1] * change
        if pairs:
            step, change = self._steps[pairs[-1]], self._changes[pairs[-1]]
            direction = direction * (float(step @ change) / float(change @ change))
        else:
            direction = direction / 4
        for at, part in zip(pairs, reversed(shares), strict=True):
            step, change = self._steps[at], self._changes[at]
            direction = direction + step * (part - float(change @ direction) / float(step @ change))
        return direction
