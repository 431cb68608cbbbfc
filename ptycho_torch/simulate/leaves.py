"""Dead leaves: opaque shapes of all sizes that fall on one another.

The model of natural images whose statistics do not change with scale: sizes r with density r^-3, each leaf hiding what
lies under it (Lee, Mumford & Huang, Int. J. Comput. Vision 41, 35 (2001)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.simulate.patterns import Shape

# Mean number of leaves over each pixel; exp(-3) = 5 % of the pixels stay bare ground.
COVERAGE = 3.0


@dataclass(frozen=True)
class Leaves:
    """Which leaf lies on top where.

    top:      (image, y, x) int64, number of the top leaf, 1 … n_leaves; 0 is bare ground
    along, across: (image, y, x) float32, -1 … 1, the pixel's place in that leaf; 0 on bare ground
    """

    top: Tensor
    along: Tensor
    across: Tensor
    n_leaves: int

    def draw(self, generator: torch.Generator) -> Tensor:
        """A random number from 0 to 1 for each leaf, and for the ground, painted on it: (image, y, x)."""
        n_images = self.top.shape[0]
        values = torch.rand((n_images, self.n_leaves + 1), generator=generator, device=generator.device)
        return _paint(values, self.top)


def fallen_leaves(
    shape: Shape, generator: torch.Generator, *, smallest_px: float, largest_px: float, boxes: float = 0.3
) -> Leaves:
    """Leaves of radius smallest_px to largest_px on images of shape (y, x) or (image, y, x).

    boxes: share of the leaves that are rectangles; the others are ellipses
    """
    height, width = shape[-2:]
    n_images = math.prod(shape[:-2])
    counts = _leaves_by_size(height, width, smallest_px, largest_px)
    n_leaves = sum(count for _, _, count in counts)
    device = generator.device
    # Height in the pile: a random order of the leaves of each image, of all sizes.
    order = torch.rand((n_images, n_leaves), generator=generator, device=device).argsort(1)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(1, n_leaves + 1, device=device).expand_as(order))
    top = torch.zeros(n_images * height * width, dtype=torch.int64, device=device)
    leaf = torch.zeros((6, n_images, n_leaves + 1), device=device)
    start = 0
    for low, high, count in counts:
        number = rank[:, start : start + count]
        shapes = _shapes((n_images, count), low, high, (height, width), boxes, generator)
        leaf.scatter_(2, number.expand(6, -1, -1), shapes)
        _drop(top, number, shapes, high, (height, width))
        start += count
    top = top.view(n_images, height, width)
    along, across = _place_in_leaf(leaf, top)
    return Leaves(top, along, across, n_leaves)


def _leaves_by_size(height: int, width: int, smallest: float, largest: float) -> list[tuple[float, float, int]]:
    """(lowest radius, highest radius, number) of leaves: with density r^-3 every octave covers the same area.

    The octaves are halved so that few pixels outside a leaf are looked at for it.
    """
    largest = max(largest, smallest * 1.01)
    n_bins = max(1, round(2 * math.log2(largest / smallest)))
    ratio = (largest / smallest) ** (1 / n_bins)
    found = []
    for k in range(n_bins):
        low, high = smallest * ratio**k, smallest * ratio ** (k + 1)
        mean_square = 2 * math.log(ratio) / (low**-2 - high**-2)
        # 0.8: mean area of the shapes below over that of a circle of their radius.
        area = (height + 2 * high) * (width + 2 * high)
        found.append((low, high, max(1, round(COVERAGE / n_bins * area / (0.8 * math.pi * mean_square)))))
    return found


def _shapes(
    several: tuple[int, int], low: float, high: float, size: tuple[int, int], boxes: float, generator: torch.Generator
) -> Tensor:
    """Six numbers of each leaf (6, image, leaf): centre y, x; axis (cos, sin) / long radius; short over long; box."""
    draw = torch.rand((6, *several), generator=generator, device=generator.device)
    centre_y = draw[0] * (size[0] + 2 * high) - high
    centre_x = draw[1] * (size[1] + 2 * high) - high
    radius = (low**-2 - draw[2] * (low**-2 - high**-2)).rsqrt()
    angle = draw[3] * math.pi
    box = (draw[5] < boxes).float()
    # A box's corners reach sqrt(2) further than an ellipse's ends: shrink it to stay inside the same circle.
    radius = radius * (1 - (1 - math.sqrt(0.5)) * box)
    return torch.stack([centre_y, centre_x, angle.cos() / radius, angle.sin() / radius, 0.6 + 0.4 * draw[4], box])


def _drop(top: Tensor, number: Tensor, shapes: Tensor, radius: float, size: tuple[int, int]) -> None:
    """Let leaves of one size class fall: each pixel keeps the highest number that covers it."""
    height, width = size
    n_images = len(number)
    reach = math.ceil(radius) + 1
    offsets = torch.arange(-reach, reach + 1, device=top.device)
    first_pixel = torch.arange(n_images, device=top.device)[:, None] * (height * width)
    within_square = offsets[:, None] * width + offsets
    # About two million pixels at a time keep the temporaries under 100 MB.
    at_once = max(1, 2**21 // (n_images * len(offsets) ** 2))
    for some, numbers in zip(torch.split(shapes, at_once, 2), torch.split(number, at_once, 1), strict=True):
        centre = some[:2].round().long()
        y, x = (place[..., None] + offsets for place in centre)
        leaf = some[..., None, None]
        inside = _measure(leaf, y[..., :, None] - leaf[0], x[..., None, :] - leaf[1])[2] <= 1
        inside &= ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
        corner = first_pixel + centre[0] * width + centre[1]
        pixels = (corner[..., None, None] + within_square)[inside]
        top.scatter_reduce_(0, pixels, numbers[..., None, None].expand_as(inside)[inside], "amax")


def _measure(leaf: Tensor, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place along and across a leaf, and a size that is 1 on its outline."""
    along = leaf[2] * down + leaf[3] * right
    across = (leaf[2] * right - leaf[3] * down) / leaf[4]
    a, b = along.square(), across.square()
    return along, across, torch.where(leaf[5] > 0, torch.maximum(a, b), a + b)


def _place_in_leaf(leaf: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    _, height, width = top.shape
    y = torch.arange(height, device=top.device)[:, None]
    x = torch.arange(width, device=top.device)[None, :]
    # Column 0 of the table is bare ground: slopes zero, and any short-over-long other than zero.
    leaf[4, :, 0] = 1
    painted = torch.stack([_paint(values, top) for values in leaf])
    along, across, _ = _measure(painted, y - painted[0], x - painted[1])
    return along, across


def _paint(values: Tensor, top: Tensor) -> Tensor:
    return values.gather(1, top.flatten(1)).view(top.shape)
