"""Losses: how far patches are from the measured counts, from the truth, and from being smooth."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho.config.config import TrainingConfig
from ptycho_torch.physics.likelihood import EPSILON, poisson_deviance


def data_loss(weights: TrainingConfig, counts: Tensor, expected: Tensor, mask: Tensor | None) -> Tensor:
    """Loss (position,) of expected counts (position, y, x).

    Mode "poisson": nll_weight × deviance + mae_weight × mean |√λ − √k|; mode "mae": mean |√λ − √k| alone.
    """
    if weights.torch_loss_mode == "mae":
        return (weights.mae_weight or 1.0) * _amplitude_mae(counts, expected, mask)
    loss = weights.nll_weight * poisson_deviance(counts, expected, mask)
    if weights.mae_weight:
        loss = loss + weights.mae_weight * _amplitude_mae(counts, expected, mask)
    return loss


def smoothness_loss(patches: Tensor, illumination: Tensor) -> Tensor:
    """Total variation per pixel (position,) of patches (position, y, x) under an illumination (y, x)."""
    share = illumination / illumination.sum()
    down, across = (patches.diff(dim=axis).abs() for axis in (-2, -1))
    return (down * share[1:]).sum((-2, -1)) + (across * share[:, 1:]).sum((-2, -1))


def object_mae(patches: Tensor, truth: Tensor, illumination: Tensor) -> Tensor:
    """Mean |o·e^{iφ} − t| (position,), each patch's global phase φ free.

    illumination: (y, x) or (position, y, x), the weight of each pixel
    """
    inner = (patches.conj() * truth * illumination).sum((-2, -1), keepdim=True)
    phasor = (inner / inner.abs().clamp(min=EPSILON)).detach()
    return ((patches * phasor - truth).abs() * illumination).sum((-2, -1)) / illumination.sum((-2, -1))


def _amplitude_mae(counts: Tensor, expected: Tensor, mask: Tensor | None) -> Tensor:
    difference = ((expected + EPSILON).sqrt() - counts.sqrt()).abs()
    if mask is None:
        return difference.mean((-2, -1))
    return (difference * mask).sum((-2, -1)) / torch.as_tensor(mask).sum()
