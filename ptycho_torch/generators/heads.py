"""Heads: how two output channels of a network correct a complex guess. Zero channels leave the guess as it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ptycho.errors import ModelError

Head = Callable[[Tensor, Tensor], Tensor]

# Each is 1 at 0 with a slope of about 1, and never negative beyond swish's own dip.
AMPLITUDE_FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda x: 2 * torch.sigmoid(2 * x),
    "swish": lambda x: 1 + functional.silu(2 * x),
    "softplus": lambda x: functional.softplus(x) / math.log(2),
    "relu": lambda x: functional.relu(1 + x),
}
AMPLITUDE_FACTORS["silu"] = AMPLITUDE_FACTORS["swish"]


def real_imag(guess: Tensor, change: Tensor) -> Tensor:
    """The guess plus a complex change: every transmission can be reached."""
    return guess + torch.complex(change[..., 0, :, :], change[..., 1, :, :])


def amp_phase_logits(guess: Tensor, change: Tensor) -> Tensor:
    """The guess times exp(a + iφ), a and φ unbounded: a change of the sample's projected refractive index."""
    return guess * torch.polar(change[..., 0, :, :].exp(), change[..., 1, :, :])


def amp_phase(factor: Callable[[Tensor], Tensor]) -> Head:
    """The guess times an amplitude factor and a phase in ±π (π·tanh)."""

    def head(guess: Tensor, change: Tensor) -> Tensor:
        amplitude = factor(change[..., 0, :, :])
        phase = math.pi * torch.tanh(change[..., 1, :, :] / math.pi)
        return guess * torch.complex(amplitude * phase.cos(), amplitude * phase.sin())

    return head


def build_head(output_mode: str, amp_activation: str) -> Head:
    """The head of that name; guess (..., y, x) complex and change (..., 2, y, x) give (..., y, x) complex.

    `amp_activation` matters for amp_phase only. Raises ModelError for an unknown name.
    """
    if amp_activation not in AMPLITUDE_FACTORS:
        raise ModelError(f'amp_activation "{amp_activation}" is unknown; choose from {", ".join(AMPLITUDE_FACTORS)}.')
    heads: dict[str, Head] = {
        "real_imag": real_imag,
        "amp_phase": amp_phase(AMPLITUDE_FACTORS[amp_activation]),
        "amp_phase_logits": amp_phase_logits,
    }
    if output_mode not in heads:
        raise ModelError(f'generator_output_mode "{output_mode}" is unknown; choose from {", ".join(heads)}.')
    return heads[output_mode]
