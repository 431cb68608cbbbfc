"""Objects: complex transmissions that look like what beamlines measure, drawn at random.

Every function takes a shape (y, x) or (image, y, x), options and a generator, and returns complex64 of that shape on
the generator's device. Phase spans at most ±phase_range_rad / 2 and amplitude amplitude_min to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.simulate.leaves import Leaves, fallen_leaves
from ptycho_torch.simulate.patterns import Shape, gaussian_field, grains, lines, soften, star, unit_range

# Blur of drawn edges, standard deviation: sharper ones would hold frequencies that no pixel grid can.
EDGE_PX = 0.6


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """Contrast and scale of an object; a Tensor (image, 1, 1) gives each image of a batch its own contrast."""

    phase_range_rad: float | Tensor
    amplitude_min: float | Tensor
    feature_px: float


def transmission(phase: Tensor, absorption: Tensor, options: ObjectOptions) -> Tensor:
    """The object of a phase image and an absorption image, both 0 to 1."""
    amplitude = 1 - (1 - options.amplitude_min) * absorption
    return torch.polar(amplitude, options.phase_range_rad * (phase - 0.5))


def natural(shape: Shape, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """A scene like a photograph: things before one another, shaded and textured, under uneven light; about 1/f."""
    scene = fallen_leaves(
        shape, generator, smallest_px=0.7 * options.feature_px, largest_px=0.45 * min(shape[-2:]), boxes=0.2
    )
    light = gaussian_field(scene.top.shape, generator, exponent=2, coarsest_px=min(shape[-2:]) / 2)
    texture = gaussian_field(scene.top.shape, generator, exponent=1, coarsest_px=4 * options.feature_px)
    tone = scene.draw(generator)
    first = _shaded(scene, tone, texture, generator) + 0.2 * light
    # Phase and absorption share their outlines, as thickness and composition do, but not their tones.
    second = _shaded(scene, 0.4 * tone + 0.6 * scene.draw(generator), texture, generator) - 0.1 * light
    return _finish(shape, _exposed(first), _exposed(second), options)


def leaves(shape: Shape, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """Dead leaves: flat opaque shapes of all sizes, each with its own phase and absorption."""
    scene = fallen_leaves(shape, generator, smallest_px=0.4 * options.feature_px, largest_px=0.25 * min(shape[-2:]))
    return _finish(shape, scene.draw(generator), scene.draw(generator), options)


def siemens_star(shape: Shape, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """A binary Siemens star of 36 spokes with rough side walls on a weakly textured membrane; fills the image."""
    metal = star(shape, generator, n_spokes=36, roughness_px=0.15)
    membrane = unit_range(gaussian_field(shape, generator, exponent=1.5, coarsest_px=6 * options.feature_px))
    metal = soften(metal, EDGE_PX)
    return transmission(1 - unit_range(metal + 0.08 * membrane), unit_range(metal + 0.04 * membrane), options)


def random_field(shape: Shape, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """Gaussian random fields, smooth over about feature_px; phase and absorption go together by half."""
    coarsest = 4 * options.feature_px
    first = gaussian_field(shape, generator, exponent=1.8, coarsest_px=coarsest)
    other = gaussian_field(shape, generator, exponent=1.8, coarsest_px=coarsest)
    return transmission(unit_range(_exposed(first)), unit_range(_exposed(0.5 * first + 0.866 * other)), options)


def crossing_lines(shape: Shape, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """Wires of many widths and heights in all directions over empty support."""
    n_lines = max(4, round(0.4 * max(shape[-2:]) / options.feature_px))
    height = soften(lines(shape, generator, width_px=options.feature_px, n_lines=n_lines), EDGE_PX)
    return transmission(1 - unit_range(height), unit_range(height), options)


def polycrystal(shape: Shape, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """Grains about three features wide, each with its own phase, and boundaries that absorb."""
    level, boundary = grains(shape, generator, size_px=3 * options.feature_px)
    return transmission(
        unit_range(soften(level, EDGE_PX)), unit_range(soften(boundary + 0.5 * level, EDGE_PX)), options
    )


OBJECTS: dict[str, Callable[[Shape, ObjectOptions, torch.Generator], Tensor]] = {
    "natural": natural,
    "leaves": leaves,
    "star": siemens_star,
    "field": random_field,
    "lines": crossing_lines,
    "grains": polycrystal,
}


def _shaded(scene: Leaves, tone: Tensor, texture: Tensor, generator: torch.Generator) -> Tensor:
    """Tones of leaves with a slope across each and a texture of its own strength."""
    slope = 0.4 * (scene.draw(generator) - 0.5) * scene.along + 0.4 * (scene.draw(generator) - 0.5) * scene.across
    return tone + slope + 0.25 * scene.draw(generator).square() * texture


def _exposed(image: Tensor) -> Tensor:
    """The image with its rare extremes compressed, as film does; without it they would take most of the range."""
    centred = image - image.mean((-2, -1), keepdim=True)
    return torch.tanh(centred / (2 * centred.square().mean((-2, -1), keepdim=True).sqrt()))


def _finish(shape: Shape, phase: Tensor, absorption: Tensor, options: ObjectOptions) -> Tensor:
    phase, absorption = (unit_range(soften(image, EDGE_PX)).reshape(shape) for image in (phase, absorption))
    return transmission(phase, absorption, options)
