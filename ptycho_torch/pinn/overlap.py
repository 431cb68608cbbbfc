"""The overlap constraint: the patches of a group agree on one piece of object."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.patches import Windows, add_patches, extract_patches

# Share of the largest weight added as a pull of each patch to itself, so that unlit pixels stay defined.
SELF_WEIGHT = 1e-3
POWER_ITERATIONS = 8


def group_windows(positions_px: Tensor, width: int) -> tuple[Windows, tuple[int, int]]:
    """Where the windows of each group lie on its own canvas, and the shape of all canvases stacked below each other.

    positions_px: (batch, frame, 2) window centres (y, x). The canvas is as large as the widest group needs, so no
    member is ever clipped.
    """
    corners = positions_px.double() - positions_px.double().amin(1, keepdim=True).floor()
    height, breadth = (int(extent) + width + 2 for extent in corners.amax((0, 1)).ceil().tolist())
    rows = torch.arange(len(corners), device=corners.device, dtype=corners.dtype) * height
    corners = corners + torch.stack([rows, torch.zeros_like(rows)], -1)[:, None]
    shape = (height * len(corners), breadth)
    return Windows.at(corners.flatten(0, 1), width, shape), shape


def agree(patches: Tensor, positions_px: Tensor, weight: Tensor, phases_free: bool = True) -> Tensor:
    """Each patch replaced by its group's weighted mean under it.

    patches: (batch, frame, y, x) complex; positions_px: (batch, frame, 2); weight: (y, x) or
    (batch · frame, y, x), the probe's intensity.
    With `phases_free` the patches' global phases, which no single frame can know, are made to agree first and each
    result keeps the phase of its own patch: no likelihood depends on them.
    """
    n_frames, width = patches.shape[1], patches.shape[-1]
    if n_frames == 1:
        return patches
    windows, shape = group_windows(positions_px, width)
    flat = patches.flatten(0, 1)
    phasors = _agreeing_phasors(patches, windows, shape, weight).flatten()[:, None, None] if phases_free else None
    turned = flat if phasors is None else flat * phasors
    total = add_patches(turned * weight, windows, shape)
    cover = add_patches(weight.expand(flat.shape).contiguous(), windows, shape)
    floor = SELF_WEIGHT * weight.amax((-2, -1), keepdim=True)
    mean = (extract_patches(total, windows) + floor * turned) / (extract_patches(cover, windows) + floor)
    if phasors is not None:
        mean = mean * phasors.conj()
    return mean.view_as(patches)


@torch.no_grad()
def _agreeing_phasors(patches: Tensor, windows: Windows, shape: tuple[int, int], weight: Tensor) -> Tensor:
    """Unit phasors (batch, frame) that make the patches of each group agree best.

    Leading eigenvector of the overlap matrix by power iteration, applied through the canvas: v_i ← phase of
    Σ_overlap w·conj(o_i)·mean(v·o). Cf. Marchesini, Tu & Wu, Appl. Comput. Harmon. Anal. 2016.
    """
    flat = patches.flatten(0, 1)
    # Starting from the centre alone, the first iteration turns every member that overlaps it to its phase.
    phasors = torch.zeros_like(patches[:, :, 0, 0])
    phasors[:, 0] = 1
    phasors = phasors.flatten()
    for _ in range(POWER_ITERATIONS):
        total = add_patches(flat * weight * phasors[:, None, None], windows, shape)
        overlap = (extract_patches(total, windows) * flat.conj() * weight).sum((-2, -1))
        modulus = overlap.abs()
        phasors = torch.where(modulus > 0, overlap / modulus.clamp(min=torch.finfo(torch.float32).tiny), 1)
    return phasors.view(patches.shape[:2])
