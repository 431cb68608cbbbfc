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


@torch.no_grad()
def physics_guess(
    amplitude: Tensor, probe: Tensor, positions_px: Tensor, mask: Tensor | None, sweeps: int, width: int
) -> Guess:
    """Object patches after a few modulus projections from a flat start, frames of a group agreeing after each sweep.

    amplitude: (batch, frame, y, x), FFT order, square root of counts on the probe's scale
    probe:     (mode, y, x) complex, power-matched to the counts
    mask:      (y, x), FFT order, 1 where a pixel is good
    width:     of the lit window, inside which the members' agreement is taken
    """
    shape = amplitude.shape
    amplitude = amplitude.flatten(0, 1)
    illumination = probe.abs().square().sum(0)
    divisor = (1 - ALPHA) * illumination + ALPHA * illumination.max()
    patches = torch.ones_like(amplitude, dtype=probe.dtype)
    change = torch.zeros_like(patches)
    weight = cut_window(illumination, width)
    scale = _DARK * float(illumination.sum().sqrt()) / shape[-1]
    for _ in range(sweeps):
        waves = illuminate(probe, patches)
        projected, _ = modulus_change(waves, amplitude, mask, scale)
        change = STEP * (probe.conj() * projected).sum(-3) / divisor
        patches = patches + change
        lit = cut_window(patches, width)
        lit.copy_(agree(lit.reshape(*shape[:2], width, width), positions_px, weight).flatten(0, 1))
    return Guess(patches.view(shape), change.view(shape))


def feature_channels(guess: Guess, probe: Tensor, width: int) -> Tensor:
    """Channels (batch, frame, channel, y, x) of the lit window, in the order that `ptycho_torch.generators` states.

    The strongest mode stands for the probe, scaled to a largest modulus of 1, its phase taken from its own mean:
    neither the dose nor a global phase of the probe changes the channels.
    """
    patches, change = cut_window(guess.patches, width), cut_window(guess.change, width)
    main = cut_window(probe[probe.abs().square().sum((-2, -1)).argmax()], width)
    reference = (main * main.abs()).sum()
    main = main * reference.conj() / (reference.abs() * main.abs().max()).clamp(min=EPSILON)
    modulus = cut_window(probe.abs().square().sum(0).sqrt(), width)
    shown = torch.stack([modulus / modulus.max(), main.real, main.imag])
    frames = [patches.real - 1, patches.imag, change.real, change.imag]
    return torch.cat([torch.stack(frames, 2), shown.expand(*patches.shape[:2], -1, -1, -1)], 2)
