"""From object to counts: illuminate, propagate, measure."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.propagate import Propagator


def illuminate(probe: Tensor, patches: Tensor) -> Tensor:
    """Exit waves leaving the object.

    probe:   (mode, y, x) or (position, mode, y, x) complex, sqrt(photons) per pixel
    patches: (position, y, x) complex transmission
    returns: (position, mode, y, x) complex
    """
    return probe * patches.unsqueeze(-3)


def intensity(detector_waves: Tensor) -> Tensor:
    """Expected counts (position, y, x) of incoherent modes (position, mode, y, x)."""
    return torch.view_as_real(detector_waves).square().sum(-1).sum(-3)


def expected_counts(probe: Tensor, patches: Tensor, propagator: Propagator | None = None) -> Tensor:
    """Expected counts (position, y, x) of object patches (position, y, x) under a probe ([position,] mode, y, x).

    propagator: None is the far field, whose counts are in FFT order
    """
    return intensity((propagator or Propagator()).forward(illuminate(probe, patches)))
