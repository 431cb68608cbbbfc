"""Features: what physics already knows about a group of frames, as channels for a generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.physics.forward import illuminate
from ptycho_torch.physics.likelihood import EPSILON
from ptycho_torch.physics.modulus import modulus_change
from ptycho_torch.pinn.overlap import agree
from ptycho_torch.pinn.window import cut_window

# Regularised update of rPIE, Maiden, Johnson & Li 2017, equation for O with alpha = 0.1.
ALPHA = 0.1
STEP = 0.7
# Where a predicted modulus is below this part of the mean one, its phase is mostly rounding: a Gaussian probe has no
# light there at all. The projection asks for a scale of which it takes 1e-6.
_DARK = 1e-2 / 1e-6


@dataclass(frozen=True)
class Guess:
    """A first guess: object patches (batch, frame, y, x) of full frame size and what their last sweep changed."""

    patches: Tensor
    change: Tensor


def physics_guess(
    amplitude: Tensor, probe: Tensor, positions_px: Tensor, mask: Tensor | None, sweeps: int, width: int
) -> Guess:
    """Object patches after a few modulus projections from a flat start; arguments as for `project`."""
    return project(torch.ones_like(amplitude, dtype=probe.dtype), amplitude, probe, positions_px, mask, sweeps, width)


def project(
    patches: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    positions_px: Tensor,
    mask: Tensor | None,
    sweeps: int,
    width: int,
) -> Guess:
    """Patches after a few modulus projections, frames of a group agreeing after each sweep.

    patches, amplitude: (batch, frame, y, x); amplitude in FFT order, square root of counts on the probe's scale
    probe:     (mode, y, x) complex, power-matched to the counts, or (batch · frame, mode, y, x): one for each frame
    mask:      (y, x), FFT order, 1 where a pixel is good
    width:     of the lit window, inside which the members' agreement is taken

    Gradients pass through the patches as if the changes did not depend on them: the phase of a weak wave turns fast,
    and its exact gradient with it.
    """
    with torch.no_grad():
        moved, change = _moved(patches, amplitude, probe, positions_px, mask, sweeps, width)
    if torch.is_grad_enabled() and patches.requires_grad:
        moved = patches + (moved - patches).detach()
    return Guess(moved, change)


def _moved(
    patches: Tensor,
    amplitude: Tensor,
    probe: Tensor,
    positions_px: Tensor,
    mask: Tensor | None,
    sweeps: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    shape = amplitude.shape
    patches, amplitude = patches.flatten(0, 1), amplitude.flatten(0, 1)
    illumination = probe.abs().square().sum(-3)
    divisor = (1 - ALPHA) * illumination + ALPHA * illumination.amax((-2, -1), keepdim=True)
    change = torch.zeros_like(patches)
    weight = cut_window(illumination, width)
    scale = _DARK * illumination.sum((-2, -1), keepdim=True).sqrt() / shape[-1]
    for _ in range(sweeps):
        waves = illuminate(probe, patches)
        projected, _ = modulus_change(waves, amplitude, mask, scale)
        change = STEP * (probe.conj() * projected).sum(-3) / divisor
        patches = patches + change
        lit = cut_window(patches, width)
        lit.copy_(agree(lit.reshape(*shape[:2], width, width), positions_px, weight).flatten(0, 1))
    return patches.view(shape), change.view(shape)


def feature_channels(guess: Guess, probe: Tensor, width: int) -> Tensor:
    """Channels (batch, frame, channel, y, x) of the lit window, in the order that `ptycho_torch.generators` states.

    probe: (mode, y, x), or (batch · frame, mode, y, x). The strongest mode stands for it, scaled to a largest modulus
    of 1, its phase taken from its own mean: neither the dose nor a global phase of the probe changes the channels.
    """
    patches, change = cut_window(guess.patches, width), cut_window(guess.change, width)
    probes = cut_window(probe if probe.ndim == 4 else probe[None], width)
    power = probes.abs().square()
    main = probes[torch.arange(len(probes), device=probe.device), power.sum((-2, -1)).argmax(1)]
    reference = (main * main.abs()).sum((-2, -1), keepdim=True)
    largest = main.abs().amax((-2, -1), keepdim=True)
    main = main * reference.conj() / (reference.abs() * largest).clamp(min=EPSILON)
    modulus = power.sum(1).sqrt()
    shown = torch.stack([modulus / modulus.amax((-2, -1), keepdim=True), main.real, main.imag], 1)
    shown = shown.expand(patches.shape[0] * patches.shape[1], -1, -1, -1).view(*patches.shape[:2], 3, width, width)
    frames = [patches.real - 1, patches.imag, change.real, change.imag]
    return torch.cat([torch.stack(frames, 2), shown], 2)
