"""Random images: the raw material of objects.

Every pattern is float32 on the generator's device. A shape is (y, x) or (image, y, x); a batch of images is drawn at
once, each with its own random numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shape = tuple[int, ...]


def gaussian_field(shape: Shape, generator: torch.Generator, *, exponent: float, coarsest_px: float) -> Tensor:
    """A Gaussian random field whose amplitude spectrum falls as 1 / (k² + 1/coarsest_px²)^(exponent / 2).

    exponent 1 is the roughness of natural images, 2 is smooth like clouds; returns zero mean, unit variance.
    """
    height, width = shape[-2:]
    # Synthesised larger than asked and cropped: a Fourier series alone would repeat at opposite edges.
    tall, wide = _fast_size(height), _fast_size(width)
    radius = radial_frequency((tall, wide), generator.device)
    envelope = (radius.square() + coarsest_px**-2) ** (-exponent / 2)
    noise = torch.randn((*shape[:-2], tall, wide), generator=generator, device=generator.device)
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * envelope[:, : wide // 2 + 1], s=(tall, wide))
    field = field[..., :height, :width]
    field = field - field.mean((-2, -1), keepdim=True)
    standard: Tensor = field / field.square().mean((-2, -1), keepdim=True).sqrt()
    return standard


def radial_frequency(shape: tuple[int, int], device: torch.device) -> Tensor:
    """Spatial frequency (y, x) in cycles per pixel, FFT order."""
    rows = torch.fft.fftfreq(shape[0], device=device)
    columns = torch.fft.fftfreq(shape[1], device=device)
    return torch.hypot(rows[:, None], columns[None, :])


def soften(image: Tensor, sigma_px: float) -> Tensor:
    """The image (..., y, x) blurred by a Gaussian: edges as an optical system resolves them, without stairs."""
    reach = max(1, math.ceil(3 * sigma_px))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    planes = image.reshape(-1, 1, *image.shape[-2:])
    planes = torch.nn.functional.pad(planes, (reach, reach, reach, reach), mode="replicate")
    planes = torch.nn.functional.conv2d(planes, kernel[None, None, :, None])
    return torch.nn.functional.conv2d(planes, kernel[None, None, None, :]).reshape(image.shape)


def unit_range(image: Tensor) -> Tensor:
    """Each image (..., y, x) scaled so that its lowest value is 0 and its highest 1; a flat one becomes 0."""
    low = image.amin((-2, -1), keepdim=True)
    span = image.amax((-2, -1), keepdim=True) - low
    return (image - low) / span.clamp(min=torch.finfo(image.dtype).tiny)


def star(shape: Shape, generator: torch.Generator, *, n_spokes: int, roughness_px: float) -> Tensor:
    """A Siemens star of metal on a membrane, turned by a random angle: 1 in the spokes, 0 between, anti-aliased.

    roughness_px: how far, about, the spokes' side walls wander. Two rings without spokes tell radii apart.
    """
    height, width = shape[-2:]
    device = generator.device
    y = torch.arange(height, device=device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=device)[None, :] - (width - 1) / 2
    radius = torch.hypot(y, x)
    turn = _uniform((*shape[:-2], 1, 1), generator, 0, 2 * math.pi)
    wander = gaussian_field(shape, generator, exponent=2, coarsest_px=12)
    # Distance to the nearest spoke edge along the arc, positive inside; clamping it to half a pixel is anti-aliasing,
    # and near the centre, where spokes are narrower than a pixel, it tends to the mean of metal and gap by itself.
    phase = torch.remainder((torch.atan2(y, x) + turn) * n_spokes / (2 * math.pi), 1)
    to_edge = (0.25 - (phase - 0.5).abs()) * 2 * math.pi / n_spokes * radius + roughness_px * wander
    spokes = (0.5 + to_edge).clamp(0, 1)
    outer = 0.46 * min(height, width)
    for inner, ring in ((0.0, outer), (0.31 * outer, 0.34 * outer), (0.64 * outer, 0.67 * outer)):
        if inner:
            spokes = spokes * (0.5 + (radius - (inner + ring) / 2).abs() - (ring - inner) / 2).clamp(0, 1)
        else:
            spokes = spokes * (0.5 + ring - radius).clamp(0, 1)
    return spokes


def lines(shape: Shape, generator: torch.Generator, *, width_px: float, n_lines: int) -> Tensor:
    """Straight lines of random place, direction, width (about width_px) and height, one laid over another; 0 to 1."""
    height, width = shape[-2:]
    device = generator.device
    y = torch.arange(height, device=device)[:, None] - height / 2
    x = torch.arange(width, device=device)[None, :] - width / 2
    several = (n_lines, *shape[:-2], 1, 1)
    angles = _uniform(several, generator, 0, math.pi)
    places = _uniform(several, generator, -0.6, 0.6) * max(height, width)
    widths = width_px * torch.exp(_uniform(several, generator, -0.9, 0.7))
    heights = _uniform(several, generator, 0.3, 1)
    image = torch.zeros(shape, device=device)
    for angle, place, broad, level in zip(angles, places, widths, heights, strict=True):
        distance = (y * angle.cos() + x * angle.sin() - place).abs()
        cover = (0.5 + broad / 2 - distance).clamp(0, 1)
        image = torch.lerp(image, torch.maximum(image, level), cover)
    return image


def grains(shape: Shape, generator: torch.Generator, *, size_px: float) -> tuple[Tensor, Tensor]:
    """Voronoi cells about size_px wide, as in a polycrystal: each grain's level 0 to 1, and how near a boundary runs.

    The second image is 1 on a boundary and falls to 0 within a pixel or two. One seed in each square of a lattice, at
    least a fifth from its sides: then no seed outside the 3 × 3 squares around a pixel can be the nearest.
    """
    height, width = shape[-2:]
    device = generator.device
    n_images = math.prod(shape[:-2])
    rows, columns = math.ceil(height / size_px) + 2, math.ceil(width / size_px) + 2
    jitter = _uniform((n_images, 2, rows * columns), generator, 0.2, 0.8)
    levels = torch.rand((n_images, rows * columns), generator=generator, device=device)
    y = (torch.arange(height, device=device) / size_px + 1)[:, None].expand(height, width)
    x = (torch.arange(width, device=device) / size_px + 1)[None, :].expand(height, width)
    nearest = torch.full((n_images, height, width), math.inf, device=device)
    second = nearest.clone()
    level = torch.zeros_like(nearest)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            row, column = y.floor().long() + down, x.floor().long() + right
            seed = (row * columns + column).reshape(-1)
            dy = row + jitter[:, 0, seed].reshape(n_images, height, width) - y
            dx = column + jitter[:, 1, seed].reshape(n_images, height, width) - x
            distance = torch.hypot(dy, dx)
            closer = distance < nearest
            second = torch.where(closer, nearest, distance.minimum(second))
            level = torch.where(closer, levels[:, seed].reshape(n_images, height, width), level)
            nearest = nearest.minimum(distance)
    boundary = torch.exp(-((second - nearest) * size_px / 1.5).square())
    return level.reshape(shape), boundary.reshape(shape)


def _uniform(shape: Shape, generator: torch.Generator, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _fast_size(size: int) -> int:
    """A size with small prime factors, at least an eighth larger than asked."""
    return 32 * math.ceil(size * 1.125 / 32)
