"""Constraints on object and probe: what is known about them beside the counts."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.parallel import Ranks
from ptycho_torch.engines.corrections import Correction
from ptycho_torch.engines.estimate import Estimate

# Dual steps of the total variation each epoch, and their length, at most 1/8 (Chambolle 2004, theorem 3.1, in 2-D).
_TV_STEPS, _TV_LENGTH = 12, 0.12
# Width of the soft edge of the probe's support, in pixels.
_EDGE_PX = 1.5


class Constraints(Correction):
    """Total variation and largest amplitude of the object, and a round support of the probe, after each epoch."""

    def __init__(self, config: RefineConfig) -> None:
        self._config = config

    def end_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int, step: float) -> None:
        config = self._config
        if config.object_tv > 0:
            estimate.object.copy_(less_variation(estimate.object, config.object_tv * step))
        if config.object_amplitude_max is not None:
            limit = config.object_amplitude_max
            estimate.object.mul_((limit / estimate.object.abs().clamp(min=1e-12)).clamp(max=1))
        if config.probe_support_px is not None:
            estimate.probe.mul_(round_support(estimate.probe.shape[-1], config.probe_support_px, estimate.probe.device))


def less_variation(image: Tensor, weight: float) -> Tensor:
    """The complex image (..., y, x) u that minimises ‖u − image‖²/2 + weight·TV(u), isotropic over both parts.

    Source: Chambolle, Journal of Mathematical Imaging and Vision 20, 89 (2004), with gradient projection on the dual.
    """
    parts = torch.view_as_real(image).movedim(-1, 0)
    dual = parts.new_zeros(2, *parts.shape)
    for _ in range(_TV_STEPS):
        slope = _gradient(parts + weight * _divergence(dual))
        dual = dual + _TV_LENGTH / weight * slope
        dual = dual / dual.square().sum((0, 1)).sqrt().clamp(min=1)
    smooth = (parts + weight * _divergence(dual)).movedim(0, -1)
    return torch.view_as_complex(smooth.contiguous())


def round_support(size: int, diameter_px: float, device: torch.device) -> Tensor:
    """1 inside a centred disk of that diameter, 0 outside, with a soft edge: (size, size)."""
    along = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    radius = torch.hypot(along[:, None], along[None, :])
    return torch.sigmoid((diameter_px / 2 - radius) / _EDGE_PX * 2)


def _gradient(parts: Tensor) -> Tensor:
    """Forward differences along y and x, zero at the far edge: (2, part, …, y, x)."""
    slope = parts.new_zeros(2, *parts.shape)
    slope[0, ..., :-1, :] = parts[..., 1:, :] - parts[..., :-1, :]
    slope[1, ..., :, :-1] = parts[..., :, 1:] - parts[..., :, :-1]
    return slope


def _divergence(dual: Tensor) -> Tensor:
    """Minus the adjoint of `_gradient`."""
    flow = torch.zeros_like(dual[0])
    flow[..., :-1, :] += dual[0, ..., :-1, :]
    flow[..., 1:, :] -= dual[0, ..., :-1, :]
    flow[..., :, :-1] += dual[1, ..., :, :-1]
    flow[..., :, 1:] -= dual[1, ..., :, :-1]
    return flow
