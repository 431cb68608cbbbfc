"""The lit window: the central part of the frame in which the probe is, where the network works."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.generators.cnn import WINDOW_MULTIPLE

# Smallest share of the probe's power inside the window. The rest still takes part in the forward model, where the
# object is set to the patch's own mean: its light cannot be dropped without breaking the fit of the tails.
LIT_FRACTION = 0.97


def lit_window(probe: Tensor, probe_big: bool) -> int:
    """Width in pixels, a multiple of 8, of the centred window that holds most of the probe's power.

    probe: (mode, y, x). Without `probe_big` the window is never wider than half the frame.
    """
    power = probe.abs().square().sum(0)
    size = int(power.shape[-1])
    widest = size if probe_big else size // 2
    for width in range(2 * WINDOW_MULTIPLE, widest, WINDOW_MULTIPLE):
        if cut_window(power, width).sum() >= LIT_FRACTION * power.sum():
            return width
    return int(widest - widest % WINDOW_MULTIPLE)


def cut_window(frame: Tensor, width: int) -> Tensor:
    """The central (..., width, width) part of (..., y, x); its index width // 2 is the frame's index N // 2."""
    low = frame.shape[-1] // 2 - width // 2
    return frame[..., low : low + width, low : low + width]


def fill_frame(patches: Tensor, size: int, weight: Tensor | None) -> Tensor:
    """Patches (..., y, x) of full frame size around patches of the window.

    Outside the window the object is the patch's mean under `weight`, (y, x) or (..., y, x): a prediction of no
    resolution, which has at least the patch's own global phase. Without a weight it is 1.
    """
    if weight is None:
        outside = torch.ones_like(patches[..., :1, :1])
    else:
        outside = (patches * weight).sum((-2, -1), keepdim=True) / weight.sum((-2, -1), keepdim=True)
    frame = outside.expand(*patches.shape[:-2], size, size).clone()
    cut_window(frame, patches.shape[-1]).copy_(patches)
    return frame
