"""Fourier neural operators as generators: corrections of the guess that see the whole window in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho.config.config import ModelConfig
from ptycho.errors import ModelError
from ptycho_torch.generators.cnn import layer
from ptycho_torch.generators.heads import Head, build_head


class FourierOperator(nn.Module):
    """Spectral blocks, then convolutions for what lies beyond the kept modes.

    The frames of a group share weights, and the correction is zero at the start, as in `CorrectionCNN`.
    """

    n_steps = 1

    def __init__(
        self,
        input_channels: int,
        width: int,
        blocks: list[nn.Module],
        n_convolutions: int,
        head: Head,
        transform: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.lift = nn.Conv2d(input_channels, width, 1)
        self.blocks = nn.ModuleList(blocks)
        self.convolutions = nn.ModuleList(layer(width, width) for _ in range(n_convolutions))
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.head = head
        self._transform = transform

    @classmethod
    def full(cls, config: ModelConfig, input_channels: int) -> FourierOperator:
        """Architecture "fno": blocks over both axes at once (Li et al., arXiv:2010.08895), then convolutions."""
        return cls._from_config(config, input_channels, FullBlock, config.fno_cnn_blocks)

    @classmethod
    def vanilla(cls, config: ModelConfig, input_channels: int) -> FourierOperator:
        """Architecture "fno_vanilla": the blocks of "fno" alone, as first published."""
        return cls._from_config(config, input_channels, FullBlock, 0)

    @classmethod
    def factorised(cls, config: ModelConfig, input_channels: int) -> FourierOperator:
        """Architecture "ffno": blocks over one axis after the other (Tran et al., arXiv:2111.13802)."""
        return cls._from_config(config, input_channels, FactorisedBlock, config.fno_cnn_blocks)

    @classmethod
    def _from_config(
        cls, config: ModelConfig, input_channels: int, block: Callable[[int, int], nn.Module], n_convolutions: int
    ) -> FourierOperator:
        width = min(config.fno_width, config.max_hidden_channels or config.fno_width)
        blocks = [block(width, config.fno_modes) for _ in range(config.fno_blocks)]
        head = build_head(config.generator_output_mode, config.amp_activation)
        return cls(input_channels, width, blocks, n_convolutions, head, input_transform(config.fno_input_transform))

    def forward(self, features: Tensor, step: int = 0) -> Tensor:
        """features: (batch, frame, channel, y, x); returns (batch, frame, y, x) complex64."""
        x = self.lift(self._transform(features.flatten(0, 1)))
        for block in (*self.blocks, *self.convolutions):
            x = x + block(x)
        change = self.last(x).float()
        change = change.view(*features.shape[:2], *change.shape[1:])
        return self.head(torch.complex(1 + features[:, :, 0], features[:, :, 1]), change)


class FullBlock(nn.Module):
    """Lowest modes of both axes mixed over channels, beside a 1 × 1 convolution; GELU."""

    def __init__(self, width: int, n_modes: int) -> None:
        super().__init__()
        self.n_modes = n_modes
        # Real and imaginary parts as real numbers: collectives and safetensors hold no complex ones.
        self.weight = nn.Parameter(torch.randn(width, width, 2 * n_modes, n_modes, 2) / (width * math.sqrt(2)))
        self.bypass = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x) of any size; a window that is too small for all modes uses the lowest."""
        return functional.gelu(in_float32(self._spectral, x) + self.bypass(x))

    def _spectral(self, x: Tensor) -> Tensor:
        rows, columns = (min(self.n_modes, size // 2) for size in x.shape[-2:])
        weight = torch.view_as_complex(self.weight)[:, :, self.n_modes - rows : self.n_modes + rows, :columns]
        # Row modes −m … m − 1, zero frequency in the middle.
        spectrum = torch.fft.rfft2(x, norm="ortho")[..., :columns]
        low = torch.cat([spectrum[..., -rows:, :], spectrum[..., :rows, :]], -2)
        mixed = torch.einsum("nirc,iorc->norc", low, weight)
        gap = x.shape[-2] - 2 * rows
        rolled = functional.pad(mixed, (0, x.shape[-1] // 2 + 1 - columns, 0, gap)).roll(-rows, -2)
        changed: Tensor = torch.fft.irfft2(rolled, s=x.shape[-2:], norm="ortho")
        return changed


class FactorisedBlock(nn.Module):
    """Lowest modes of each axis by itself, their sum through a small network on each pixel."""

    def __init__(self, width: int, n_modes: int) -> None:
        super().__init__()
        self.n_modes = n_modes
        self.weight = nn.Parameter(torch.randn(2, width, width, n_modes, 2) / (width * math.sqrt(2)))
        self.mix = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channel, y, x) of any size; a window that is too small for all modes uses the lowest."""
        change: Tensor = self.mix(in_float32(self._spectral, x))
        return change

    def _spectral(self, x: Tensor) -> Tensor:
        weights = torch.view_as_complex(self.weight)
        along_x = self._along_last(x, weights[0])
        return along_x + self._along_last(x.mT, weights[1]).mT

    def _along_last(self, x: Tensor, weight: Tensor) -> Tensor:
        n_modes = min(self.n_modes, x.shape[-1] // 2)
        low = torch.fft.rfft(x, norm="ortho")[..., :n_modes]
        mixed = torch.einsum("niyc,ioc->noyc", low, weight[..., :n_modes])
        changed: Tensor = torch.fft.irfft(mixed, n=x.shape[-1], norm="ortho")
        return changed


def in_float32(transform: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The transform of x in single precision, whatever precision surrounds it: half-precision FFTs lose the image."""
    with torch.autocast(x.device.type, enabled=False):
        return transform(x.float())


def input_transform(name: str) -> Callable[[Tensor], Tensor]:
    """What is done to features (n, channel, y, x), which have either sign. Raises ModelError for an unknown name."""
    transforms: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda x: x,
        # The derivative of a root at 0 is infinite; none of the features is trained, so none is taken.
        "sqrt": lambda x: x.sign() * x.abs().sqrt(),
        "log1p": lambda x: x.sign() * x.abs().log1p(),
        "instancenorm": functional.instance_norm,
    }
    if name not in transforms:
        raise ModelError(f'fno_input_transform "{name}" is unknown; choose from {", ".join(transforms)}.')
    return transforms[name]
