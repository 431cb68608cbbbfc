"""Object patches: cut out with bilinear interpolation, added back by the exact adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Where windows of size N lie on an image: flat pixel indices and bilinear weights, computed once.

    first: (position,) int64, flat index of each window's first pixel in an image `width` pixels wide
    fraction: (position, 2) float32, sub-pixel part (y, x) of the corner
    """

    first: Tensor
    fraction: Tensor
    size: int
    width: int

    @classmethod
    def at(cls, corners_px: Tensor, size: int, shape: tuple[int, int]) -> Windows:
        """Windows whose first pixel is at fractional (y, x) `corners_px` (position, 2) of an image of that shape.

        Raises ValueError when a window, with its one-pixel bilinear edge, leaves the image: clipping it would
        silently drop light.
        """
        whole = corners_px.floor()
        fraction = (corners_px - whole).float()
        last = whole.long() + size + (fraction > 0)
        limit = torch.tensor(shape, device=corners_px.device)
        if corners_px.numel() and (bool((whole < 0).any()) or bool((last > limit).any())):
            low, high = whole.min(0).values.tolist(), last.max(0).values.tolist()
            raise ValueError(f"windows reach from {low} to {high}, outside the image of shape {shape}")
        # A window that ends exactly at the edge has no further pixel: its weight is zero, its index is clamped.
        first = whole[:, 0].long() * shape[1] + whole[:, 1].long()
        return cls(first, fraction, size, shape[1])

    def __getitem__(self, index: Any) -> Windows:
        return Windows(self.first[index], self.fraction[index], self.size, self.width)

    def __len__(self) -> int:
        return len(self.first)


class _Extract(torch.autograd.Function):
    """Gather with bilinear weights; its backward is `_add`, the exact adjoint, so gradients cost one scatter."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, windows: Windows) -> Tensor:
        ctx.windows, ctx.shape = windows, image.shape
        return _gather(image, windows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _scatter(gradients[0], ctx.windows, ctx.shape), None


class _Add(torch.autograd.Function):
    """Scatter with bilinear weights; its backward is the gather."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, windows: Windows, shape: tuple[int, int]) -> Tensor:
        ctx.windows = windows
        return _scatter(patches, windows, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _gather(gradients[0], ctx.windows), None, None


def extract_patches(image: Tensor, windows: Windows) -> Tensor:
    """Patches (position, size, size) of an image (height, width), bilinear between pixels. Differentiable."""
    patches: Tensor = _Extract.apply(image, windows)  # type: ignore[no-untyped-call]
    return patches


def add_patches(patches: Tensor, windows: Windows, shape: tuple[int, int]) -> Tensor:
    """Image (height, width) holding the sum of patches (position, size, size): adjoint of `extract_patches`."""
    image: Tensor = _Add.apply(patches, windows, shape)  # type: ignore[no-untyped-call]
    return image


def _flat_indices(windows: Windows, n_pixels: int) -> Tensor:
    offsets = torch.arange(windows.size + 1, device=windows.first.device)
    square = offsets[:, None] * windows.width + offsets[None, :]
    return (windows.first[:, None, None] + square).clamp_(max=n_pixels - 1)


def _weights(windows: Windows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    fraction = windows.fraction.to(torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32)
    return fraction[:, 0, None, None], fraction[:, 1, None, None]


def _gather(image: Tensor, windows: Windows) -> Tensor:
    pixels = image.reshape(-1)
    wide = pixels[_flat_indices(windows, pixels.numel())]
    fy, fx = _weights(windows, image.dtype)
    tall = torch.lerp(wide[:, :-1], wide[:, 1:], fy.to(image.dtype))
    return torch.lerp(tall[:, :, :-1], tall[:, :, 1:], fx.to(image.dtype))


def _scatter(patches: Tensor, windows: Windows, shape: torch.Size | tuple[int, int]) -> Tensor:
    n, size = len(windows), windows.size
    fy, fx = _weights(windows, patches.dtype)
    tall = patches.new_zeros(n, size, size + 1)
    tall[:, :, 1:] = patches * fx
    tall[:, :, :-1] += patches - tall[:, :, 1:]
    wide = patches.new_zeros(n, size + 1, size + 1)
    wide[:, 1:] = tall * fy
    wide[:, :-1] += tall - wide[:, 1:]
    image = patches.new_zeros(shape)
    flat = image.view(-1)
    flat.index_add_(0, _flat_indices(windows, flat.numel()).reshape(-1), wide.reshape(-1))
    return image
