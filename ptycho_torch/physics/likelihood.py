"""How likely the measured counts are: each function gives one number per frame.

counts, expected: (position, y, x); mask: (y, x), 1 where a pixel counts and 0 where it does not, or None.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Photons per pixel under which a prediction is not trusted to be smaller; keeps log and its gradient finite.
EPSILON = 1e-3


def poisson_deviance(counts: Tensor, expected: Tensor, mask: Tensor | None = None) -> Tensor:
    """Poisson deviance per good pixel, (position,): 2·mean[λ − k + k·log(k/λ)]. About 1 means noise-limited.

    Twice the negative log-likelihood less its value for a perfect fit, so it is never negative.
    """
    floor = expected + EPSILON
    deviance = 2 * (floor - counts + torch.xlogy(counts, counts.clamp(min=EPSILON) / floor))
    return _mean(deviance, mask)


def amplitude_error(counts: Tensor, expected: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance-stabilised Gaussian deviance per good pixel, (position,): 4·mean (√λ − √k)². About 1 at the noise."""
    difference = (expected + EPSILON).sqrt() - counts.sqrt()
    return _mean(4 * difference.square(), mask)


def r_factor_terms(amplitude: Tensor, expected: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Numerator Σ|√k − √λ| and denominator Σ√k of the R-factor, summed over all frames given. amplitude: √k."""
    difference = (amplitude - expected.sqrt()).abs()
    if mask is not None:
        difference, amplitude = difference * mask, amplitude * mask
    return difference.sum(dtype=torch.float64), amplitude.sum(dtype=torch.float64)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean((-2, -1))
    return (values * mask).sum((-2, -1)) / mask.sum()
