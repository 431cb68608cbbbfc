"""Position correction: every frame says by how much its window is off, and moves there, within bounds."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.parallel import Ranks
from ptycho_torch.engines.corrections import Correction
from ptycho_torch.engines.estimate import Chunk, Estimate, Trace
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.registration import register_frames
from ptycho_torch.engines.sums import share
from ptycho_torch.physics.patches import Windows

# Largest move in one epoch, in pixels: a frame far off sees a gradient that is right in direction only.
_LARGEST_MOVE_PX = 2.0
# Part of a frame's mean curvature added to both axes, so that a patch of parallel lines does not slide along them.
_RIDGE = 0.05
# Share of the last epoch's move that is made again: a gradient alone creeps, because the object has adapted.
_MOMENTUM = 0.7
# Smooth functions of time that a drift is made of: a line and half cosines up to this number.
_DRIFT_TERMS = 8


class PositionCorrection(Correction):
    """Moves windows by what their frames' residuals say.

    "gradient": the shift δ_j that explains the residual of a frame best, min ‖P·∇O_j·δ_j − Δψ_j‖² (Odstrčil, Menzel &
    Guizar-Sicairos, Optics Express 26, 3108 (2018), eq. 28).

    The mean shift of the scan, which no pattern can tell, is taken out. So is the affine part of what "free" frames ask
    for: patterns hardly tell it either, and it would wander off; the models "affine" and "any" keep it.
    """

    def __init__(self, problem: Problem, config: RefineConfig) -> None:
        self._problem, self._config = problem, config
        shape = (len(problem.frame_index), 2)
        self.offsets_px = torch.zeros(shape, dtype=torch.float64, device=problem.device)
        self._velocity = torch.zeros_like(self.offsets_px)
        self._shift = torch.zeros_like(self.offsets_px)
        self._is_moving = False
        self._basis = _model_basis(problem, config)

    def begin_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int) -> None:
        config = self._config
        self._is_moving = config.position_correction != "none" and epoch >= config.position_start_epoch
        if epoch == 1 and self._config.position_search:
            offsets = register_frames(self._problem, estimate.probe, ranks, self._config.position_limit_px)
            self.offsets_px.copy_(offsets)
            self._constrain(ranks)
            self.restored(estimate)

    def see(self, trace: Trace) -> None:
        if self._is_moving:
            self._shift[trace[0][0].rows] = gradient_shift(trace).double()

    def end_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int, step: float) -> None:
        if not self._is_moving:
            return
        self._velocity.mul_(_MOMENTUM * step).add_(self._shift, alpha=step * self._config.position_step)
        length = self._velocity.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self._velocity.mul_((_LARGEST_MOVE_PX / length).clamp(max=1))
        self.offsets_px += self._velocity
        self._constrain(ranks)
        self.restored(estimate)

    def frame_state(self) -> dict[str, Tensor]:
        return {"position_offsets_px": self.offsets_px, "position_velocity_px": self._velocity}

    def restored(self, estimate: Estimate) -> None:
        problem = self._problem
        estimate.windows = Windows.at(problem.corners_px + self.offsets_px, problem.patch_size, problem.grid.shape)

    def findings(self) -> dict[str, Tensor]:
        return {"position_offset_px": self.offsets_px}

    def _constrain(self, ranks: Ranks) -> None:
        """Fit the model, take out the mean shift, and keep every frame within its bound."""
        if self._basis is not None:
            fitted = _fitted(self.offsets_px, self._basis, ranks)
            self.offsets_px.copy_(self.offsets_px - fitted if self._config.position_model == "free" else fitted)
        total = torch.cat([self.offsets_px.sum(0), self.offsets_px.new_tensor([len(self.offsets_px)])])
        share(total, ranks)
        self.offsets_px -= total[:2] / total[2]
        length = self.offsets_px.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self.offsets_px.mul_((self._config.position_limit_px / length).clamp(max=1))
        corners, room = self._problem.corners_px, self._problem.grid.shape
        last = torch.tensor(room, device=corners.device) - self._problem.patch_size - 1.0
        self.offsets_px.copy_(torch.minimum((corners + self.offsets_px).clamp(min=0), last) - corners)


def gradient_shift(trace: Trace) -> Tensor:
    """Shift (position, 2) = (y, x) in pixels, of all slices, that explains the change of the waves to first order."""
    pull_y, pull_x, yy, xx, xy = torch.stack([_slope_sums(*part) for part in trace]).sum(0)
    ridge = _RIDGE * 0.5 * (yy + xx)
    yy, xx = yy + ridge, xx + ridge
    determinant = (yy * xx - xy.square()).clamp(min=torch.finfo(yy.dtype).tiny)
    shift: Tensor = torch.stack([xx * pull_y - xy * pull_x, yy * pull_x - xy * pull_y], 1) / determinant[:, None]
    return shift


def _slope_sums(chunk: Chunk, change: Tensor) -> Tensor:
    """(5, position): the pull of `change` (position, mode, y, x) along y and x, and the curvatures yy, xx and xy."""
    wanted = (chunk.probe.conj() * change).sum(-3)
    weight = torch.view_as_real(chunk.probe).square().sum((-4, -1))
    slope_y, slope_x = torch.zeros_like(chunk.patches), torch.zeros_like(chunk.patches)
    # A window moved by δ sees O(r + δ): central differences of the patch, none at its dark rim.
    slope_y[:, 1:-1] = (chunk.patches[:, 2:] - chunk.patches[:, :-2]) / 2
    slope_x[:, :, 1:-1] = (chunk.patches[:, :, 2:] - chunk.patches[:, :, :-2]) / 2
    pull_y, pull_x = _real_product(slope_y, wanted), _real_product(slope_x, wanted)
    weighted_y = slope_y * weight
    yy, xy = _real_product(weighted_y, slope_y), _real_product(weighted_y, slope_x)
    return torch.stack([pull_y, pull_x, yy, _real_product(slope_x * weight, slope_x), xy])


def _real_product(first: Tensor, second: Tensor) -> Tensor:
    """Re Σ conj(first)·second of each frame, (position,)."""
    return (torch.view_as_real(first) * torch.view_as_real(second)).sum((-3, -2, -1))


def _model_basis(problem: Problem, config: RefineConfig) -> Tensor | None:
    """(owned frame, term) whose span the offsets are in, for "free" the one they have no part in; None: any offsets."""
    if config.position_model == "any":
        return None
    n = problem.n_total
    if config.position_model in ("free", "affine"):
        corners = problem.whole_corners_px / max(problem.whole_grid.shape) - 0.5
        return torch.cat([torch.ones_like(corners[:, :1]), corners], 1)
    time = torch.from_numpy((problem.frame_index + 0.5) / n).to(problem.device)
    terms = [torch.ones_like(time), time - 0.5]
    terms += [torch.cos(math.pi * order * time) for order in range(1, min(_DRIFT_TERMS, n // 4) + 1)]
    return torch.stack(terms, 1)


def _fitted(offsets: Tensor, basis: Tensor, ranks: Ranks) -> Tensor:
    """The least-squares fit of the offsets by a basis, over all ranks."""
    sums = torch.cat([basis.T @ basis, basis.T @ offsets], 1).contiguous()
    share(sums, ranks)
    terms = basis.shape[1]
    coefficients = np.linalg.lstsq(sums[:, :terms].cpu().numpy(), sums[:, terms:].cpu().numpy(), rcond=1e-10)[0]
    return basis @ torch.from_numpy(coefficients).to(basis.device)
