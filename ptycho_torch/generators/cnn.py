"""The default generator: a small U-Net that corrects a first guess of the patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho.config.config import ModelConfig
from ptycho_torch.generators.heads import Head, build_head

CHANNELS_PER_SCALE = 16
LEVELS = 4
# Every level halves the window once.
WINDOW_MULTIPLE = 2 ** (LEVELS - 1)


class CorrectionCNN(nn.Module):
    """A residual U-Net with additive skips.

    The frames of a group share weights: what a frame's neighbours know reaches it through the guess, which the caller
    makes jointly for the group, so one network serves every group size. Group normalisation does not mix frames.
    """

    n_steps = 1

    def __init__(self, input_channels: int, width: int, head: Head, max_width: int | None = None) -> None:
        super().__init__()
        widths = [min(width * factor, max_width or width * factor) for factor in (1, 2, 4, 4)]
        self.encoders = nn.ModuleList(
            _block(before, after) for before, after in zip([input_channels, *widths[:-1]], widths, strict=True)
        )
        self.bridges = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(LEVELS - 1))
        self.decoders = nn.ModuleList(layer(widths[i], widths[i]) for i in range(LEVELS - 1))
        self.last = nn.Conv2d(widths[0], 2, 3, padding=1)
        # At the start the correction is zero, so training begins at the physics, with O ≈ 1.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.head = head

    @classmethod
    def from_config(cls, config: ModelConfig, input_channels: int) -> CorrectionCNN:
        """Width from n_filters_scale, heads from generator_output_mode and amp_activation."""
        head = build_head(config.generator_output_mode, config.amp_activation)
        return cls(input_channels, CHANNELS_PER_SCALE * config.n_filters_scale, head, config.max_hidden_channels)

    def forward(self, features: Tensor, step: int = 0) -> Tensor:
        """features: (batch, frame, channel, y, x), y and x multiples of 8; returns (batch, frame, y, x) complex64."""
        change = self._change(features.flatten(0, 1)).float()
        change = change.view(*features.shape[:2], *change.shape[1:])
        guess = torch.complex(1 + features[:, :, 0], features[:, :, 1])
        return self.head(guess, change)

    def _change(self, x: Tensor) -> Tensor:
        skips = []
        for level, encode in enumerate(self.encoders):
            x = encode(x if level == 0 else halve(x))
            skips.append(x)
        for level in reversed(range(LEVELS - 1)):
            x = self.decoders[level](skips[level] + double(self.bridges[level](x)))
        change: Tensor = self.last(x)
        return change


def layer(before: int, after: int) -> nn.Sequential:
    """A 3 × 3 convolution, normalised over groups of channels of one frame, and GELU."""
    groups = next(n for n in (8, 4, 2, 1) if after % n == 0)
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(groups, after), nn.GELU())


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(layer(before, after), layer(after, after))


def halve(x: Tensor) -> Tensor:
    """Means of 2 × 2 pixels."""
    return functional.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour enlargement by copying, whose gradient is deterministic on every device."""
    n, channels, height, width = x.shape
    wide = x[:, :, :, None, :, None].expand(n, channels, height, 2, width, 2)
    return wide.reshape(n, channels, 2 * height, 2 * width)
