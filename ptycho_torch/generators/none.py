"""The generator that corrects nothing: what physics guesses is the patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptycho.config.config import ModelConfig


class GuessAsItIs(nn.Module):
    """Nothing to train."""

    n_steps = 1

    @classmethod
    def from_config(cls, config: ModelConfig, input_channels: int) -> GuessAsItIs:
        """There is nothing to configure."""
        return cls()

    def forward(self, features: Tensor, step: int = 0) -> Tensor:
        """features: (batch, frame, channel, y, x); returns the guess (batch, frame, y, x) complex64."""
        return torch.complex(1 + features[:, :, 0], features[:, :, 1])
