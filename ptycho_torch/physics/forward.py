"""From object to counts: illuminate, propagate, measure."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import Propagator, fly


def illuminate(probe: Tensor, patches: Tensor) -> Tensor:
    """Exit waves leaving the object.

    probe:   (mode, y, x) or (position, mode, y, x) complex, sqrt(photons) per pixel
    patches: (position, y, x) complex transmission
    returns: (position, mode, y, x) complex
    """
    return probe * patches.unsqueeze(-3)


def traverse(light: Tensor, slices: Tensor, windows: Windows, between: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What happens on each slice of an object, upstream first: the light that falls on it, its patches, what leaves it.

    From one slice to the next waves fly freely (Maiden, Humphry & Rodenburg, J. Opt. Soc. Am. A 29, 1606 (2012)).

    light:   (mode, y, x) or (position, mode, y, x) complex, on the first slice: the probe
    slices:  (slice, y, x) complex transmissions; one of them is a thin object
    between: (y, x) transfer function of `slice_flight`
    returns: light ([position,] mode, y, x), patches (position, y, x), exit waves (position, mode, y, x), of each slice
    """
    passed: list[tuple[Tensor, Tensor, Tensor]] = []
    for image in slices:
        if passed:
            light = fly(passed[-1][2], between)
        patches = extract_patches(image, windows)
        passed.append((light, patches, illuminate(light, patches)))
    return passed


def intensity(detector_waves: Tensor) -> Tensor:
    """Expected counts (position, y, x) of incoherent modes (position, mode, y, x)."""
    return torch.view_as_real(detector_waves).square().sum(-1).sum(-3)


def expected_counts(probe: Tensor, patches: Tensor, propagator: Propagator | None = None) -> Tensor:
    """Expected counts (position, y, x) of object patches (position, y, x) under a probe ([position,] mode, y, x).

    propagator: None is the far field, whose counts are in FFT order
    """
    return intensity((propagator or Propagator()).forward(illuminate(probe, patches)))
