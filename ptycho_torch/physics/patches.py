"""Object patches: cut out with bilinear interpolation, added back by the exact adjoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Where windows of size N lie on an image: flat pixel indices and bilinear weights, computed once.

    first: (position,) int64, flat index of each window's first pixel in an image `width` pixels wide
    fraction: (position, 2) float32, sub-pixel part (y, x) of the corner
    spill: how many pixels, all of weight zero, lie past the end of the image's buffer: a window that ends exactly at
        the image's edge has no further row and column
    """

    first: Tensor
    fraction: Tensor
    size: int
    width: int
    spill: int = 0

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
        first = whole[:, 0].long() * shape[1] + whole[:, 1].long()
        end = int(first.max()) + size * (shape[1] + 1) + 1 if len(first) else 0
        return cls(first, fraction, size, shape[1], max(0, end - shape[0] * shape[1]))

    def __getitem__(self, index: Any) -> Windows:
        return Windows(self.first[index], self.fraction[index], self.size, self.width, self.spill)

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def rows(self) -> Tensor:
        """Flat image index of the first pixel of each row that each window touches: (position, size + 1) int64."""
        return self.first[:, None] + self.width * torch.arange(self.size + 1, device=self.first.device)

    @cached_property
    def pixels(self) -> Tensor:
        """Flat image indices of all pixels that each window touches: (position · (size + 1)²,) int64."""
        return (self.rows[:, :, None] + torch.arange(self.size + 1, device=self.first.device)).view(-1)


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


def accumulate_patches(image: Tensor, patches: Tensor, windows: Windows) -> None:
    """Add patches (position, size, size) to a contiguous image (height, width) in place. Not differentiable."""
    if windows.spill:
        image += _scatter(patches, windows, image.shape)
    else:
        image.view(-1).scatter_add_(0, windows.pixels, _splat(patches, windows))


def accumulate_pattern(image: Tensor, pattern: Tensor, windows: Windows) -> None:
    """Add one real pattern (size, size) at every window of a contiguous image (height, width), in place.

    The same as `accumulate_patches` with copies of the pattern, as one product of the four bilinear weights with the
    four shifted patterns: three times faster.
    """
    fy, fx = windows.fraction.to(pattern.dtype).unbind(1)
    weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], 1)
    shifted = pattern.new_zeros(2, 2, windows.size + 1, windows.size + 1)
    for y in (0, 1):
        for x in (0, 1):
            shifted[y, x, y : y + windows.size, x : x + windows.size] = pattern
    wide = weights @ shifted.view(4, -1)
    flat = image.view(-1)
    target = torch.nn.functional.pad(flat, (0, windows.spill)) if windows.spill else flat
    target.scatter_add_(0, windows.pixels, wide.view(-1))
    if windows.spill:
        flat.copy_(target[: len(flat)])


def _gather(image: Tensor, windows: Windows) -> Tensor:
    flat = image.reshape(-1)
    if windows.spill:
        flat = torch.nn.functional.pad(flat, (0, windows.spill))
    # Every run of size + 1 pixels as one row of an overlapping view: rows are copied whole, not pixel by pixel.
    runs = flat.as_strided((len(flat) - windows.size, windows.size + 1), (1, 1))
    wide, channels = _real_rows(
        runs.index_select(0, windows.rows.view(-1)).view(-1, windows.size + 1, windows.size + 1)
    )
    fy, fx = _weights(windows, wide.dtype)
    tall = torch.lerp(wide[:, :-1], wide[:, 1:], fy)
    return _as(torch.lerp(tall[:, :, :-channels], tall[:, :, channels:], fx), image.dtype)


def _scatter(patches: Tensor, windows: Windows, shape: torch.Size | tuple[int, int]) -> Tensor:
    flat = patches.new_zeros(shape[0] * shape[1] + windows.spill)
    flat.scatter_add_(0, windows.pixels, _splat(patches, windows))
    return flat[: shape[0] * shape[1]].view(shape)


def _splat(patches: Tensor, windows: Windows) -> Tensor:
    """Patches spread over the size + 1 pixels that each axis touches: (position · (size + 1)²,).

    The adjoint of bilinear interpolation is interpolation the other way of the patch in a border of zeros.
    """
    padded, channels = _real_rows(torch.nn.functional.pad(patches, (1, 1, 1, 1)))
    fy, fx = _weights(windows, padded.dtype)
    tall = torch.lerp(padded[:, 1:], padded[:, :-1], fy)
    return _as(torch.lerp(tall[:, :, channels:], tall[:, :, :-channels], fx), patches.dtype).reshape(-1)


def _real_rows(patches: Tensor) -> tuple[Tensor, int]:
    """Patches as real rows (position, y, channels · x): real weights times complex numbers cost twice as much."""
    if not patches.is_complex():
        return patches, 1
    return torch.view_as_real(patches).flatten(-2), 2


def _as(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of `_real_rows`."""
    return torch.view_as_complex(rows.view(*rows.shape[:-1], rows.shape[-1] // 2, 2)) if dtype.is_complex else rows


def _weights(windows: Windows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    fraction = windows.fraction.to(dtype)
    return fraction[:, 0, None, None], fraction[:, 1, None, None]
