"""LSQ-ML: batches moved by the step lengths that fit their residuals best, with momentum from epoch to epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.engines.estimate import Chunk
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.sums import add_light, move, share, share_canvas

# Part of a frame's own curvatures added to them, so that directions that look alike share the step.
_RIDGE = 0.1


class LsqMl(Pie):
    """Least-squares maximum likelihood (Odstrčil, Menzel & Guizar-Sicairos, Optics Express 26, 3108 (2018)).

    Directions ΔO and ΔP of a batch are those of rPIE. Each frame then says which multiples of both, together, explain
    its residual χ_j best, min ‖χ_j − a_j·P·ΔO − b_j·O_j·ΔP‖² (eq. 23); the probe moves by the mean b and every object
    pixel by the mean a of the frames that light it, weighted by their light (eq. 24 and 25).
    """

    def _sweep(self, epoch: int, step: float) -> float:
        self._kept: list[tuple[Chunk, Tensor]] = []
        return super()._sweep(epoch, step)

    def _keep(self, chunk: Chunk, change: Tensor) -> None:
        self._kept.append((chunk, change.clone()))

    def _update(self, step: float, moves_probe: bool) -> None:
        """Move object and probe by the batch's sums, as far as its frames ask for."""
        sums, estimate, config = self._sums, self.estimate, self.config
        image, probe = torch.zeros_like(estimate.object), torch.zeros_like(estimate.probe)
        weight = sums.object_weight.clone()
        move(image, sums.object, sums.object_weight, self._alpha, 1.0, sums.largest)
        if moves_probe:
            move(probe, sums.probe, sums.probe_weight, config.effective_probe_alpha, 1.0)
        asked = torch.zeros_like(weight)
        totals = torch.zeros(2, dtype=torch.float64, device=weight.device)
        for chunk, change in self._kept:
            by_object = estimate.tangent(chunk, image, None)
            by_probe = estimate.tangent(chunk, None, probe) if moves_probe else None
            image_steps, probe_steps = frame_steps(by_object, by_probe, change)
            on: Chunk | None = chunk
            while on is not None:
                add_light(asked[on.slice], on, image_steps)
                on = on.before
            totals += torch.stack([probe_steps.sum(), torch.ones_like(probe_steps).sum()])
        self._kept.clear()
        share_canvas(asked, self._problem.tile, self._ranks)
        share(totals, self._ranks)
        ratio = asked / weight.clamp(min=1e-6 * float(sums.largest))
        estimate.object += image * ratio * (step * config.object_step)
        if moves_probe:
            estimate.probe += probe * (float(totals[0] / totals[1]) * step * config.probe_step)


def frame_steps(by_object: Tensor, by_probe: Tensor | None, change: Tensor) -> tuple[Tensor, Tensor]:
    """Multiples a, b (position,) of what object and probe do to the exit waves that explain their `change` best.

    All are (position, mode, y, x); None where the probe is held.
    """
    aa, ac = _norm(by_object), _product(by_object, change)
    if by_probe is None:
        return (ac / aa.clamp(min=_tiny(aa))).clamp(0, 2), torch.zeros_like(aa)
    bb, bc, ab = _norm(by_probe), _product(by_probe, change), _product(by_object, by_probe)
    aa_, bb_ = aa * (1 + _RIDGE), bb * (1 + _RIDGE)
    determinant = (aa_ * bb_ - ab.square()).clamp(min=_tiny(aa))
    return ((bb_ * ac - ab * bc) / determinant).clamp(0, 2), ((aa_ * bc - ab * ac) / determinant).clamp(0, 2)


def _norm(waves: Tensor) -> Tensor:
    return torch.view_as_real(waves).square().sum((1, 2, 3, 4))


def _product(waves: Tensor, others: Tensor) -> Tensor:
    return (torch.view_as_real(waves) * torch.view_as_real(others)).sum((1, 2, 3, 4))


def _tiny(values: Tensor) -> float:
    return float(torch.finfo(values.dtype).tiny)
