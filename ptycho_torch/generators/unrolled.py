"""A generator that takes turns with physics: correct the guess, project it onto the measured moduli, correct again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho.config.config import ModelConfig
from ptycho_torch.generators.cnn import double, halve, layer
from ptycho_torch.generators.heads import Head, build_head

CHANNELS_PER_SCALE = 16
# Corrections, with a modulus projection by the caller between them.
N_STEPS = 2
# The corrector works on squares of 2 × 2 pixels as one pixel of four times the channels: on a CPU a step costs less
# than half of what "cnn" with half the channels costs.
FOLD = 2


class UnrolledCorrector(nn.Module):
    """A few small U-Nets, one for each step, each told how far the last result still is from the measurement.

    What one projection cannot know, low frequencies and what lies under the probe's dark rings, a network guesses;
    where that contradicts the measurement the next projection says so. The frames of a group share weights.
    """

    n_steps = N_STEPS

    def __init__(self, input_channels: int, width: int, head: Head, max_width: int | None = None) -> None:
        super().__init__()
        self.steps = nn.ModuleList(FoldedUNet(input_channels, width, max_width) for _ in range(self.n_steps))
        self.head = head

    @classmethod
    def from_config(cls, config: ModelConfig, input_channels: int) -> UnrolledCorrector:
        """Width from n_filters_scale, heads from generator_output_mode and amp_activation."""
        head = build_head(config.generator_output_mode, config.amp_activation)
        return cls(input_channels, CHANNELS_PER_SCALE * config.n_filters_scale, head, config.max_hidden_channels)

    def forward(self, features: Tensor, step: int = 0) -> Tensor:
        """features: (batch, frame, channel, y, x), y and x multiples of 8; returns (batch, frame, y, x) complex64.

        step: 0 to n_steps − 1, how many corrections the guess has had already
        """
        change = self.steps[step](features.flatten(0, 1)).float()
        change = change.view(*features.shape[:2], *change.shape[1:])
        return self.head(torch.complex(1 + features[:, :, 0], features[:, :, 1]), change)


class FoldedUNet(nn.Module):
    """(n, channel, y, x) to two channels of the same y and x, zero at the start."""

    def __init__(self, input_channels: int, width: int, max_width: int | None = None) -> None:
        super().__init__()
        fine, middle, coarse = (min(width * factor, max_width or width * factor) for factor in (1, 2, 4))
        self.encoders = nn.ModuleList(
            nn.Sequential(layer(before, after), layer(after, after))
            for before, after in ((input_channels * FOLD**2, fine), (fine, middle), (middle, coarse))
        )
        self.bridges = nn.ModuleList((nn.Conv2d(middle, fine, 1), nn.Conv2d(coarse, middle, 1)))
        self.decoders = nn.ModuleList((layer(fine, fine), layer(middle, middle)))
        self.last = nn.Conv2d(fine, 2 * FOLD**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x), y and x multiples of 8, to (n, 2, y, x)."""
        fine = self.encoders[0](functional.pixel_unshuffle(x, FOLD))
        middle = self.encoders[1](halve(fine))
        coarse = self.encoders[2](halve(middle))
        middle = self.decoders[1](middle + double(self.bridges[1](coarse)))
        fine = self.decoders[0](fine + double(self.bridges[0](middle)))
        return functional.pixel_shuffle(self.last(fine), FOLD)
