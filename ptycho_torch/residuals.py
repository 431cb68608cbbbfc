"""How well an object and a probe explain the counts: R-factor, per frame and per detector pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.image import ObjectImage
from ptycho.data.scan import Scan
from ptycho.parallel import Ranks
from ptycho_torch.physics.forward import intensity, traverse
from ptycho_torch.physics.patches import Windows
from ptycho_torch.physics.propagate import Propagator, slice_flight


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """What is left unexplained.

    r_factor:      Σ|√k − √λ| / Σ√k over all frames and good pixels
    frame_r_factor: (position,) float32, the same for each frame
    mean_counts:   (y, x) float32 measured mean pattern, zero frequency at N // 2
    mean_residual: (y, x) float32 mean of √λ − √k, zero frequency at N // 2: where the model sees too much or too little
    """

    r_factor: float
    frame_r_factor: NDArray[np.float32]
    mean_counts: NDArray[np.float32]
    mean_residual: NDArray[np.float32]


@torch.inference_mode()
def measure_residuals(
    scan: Scan,
    owned: NDArray[np.int64],
    image: ObjectImage,
    probe: NDArray[np.complex64],
    ranks: Ranks,
    *,
    device: torch.device,
    batch_size: int = 64,
) -> Residuals:
    """Residuals of the whole scan; each rank reads the frames that it owns, and every rank gets the sums.

    image: with the slices, positions, intensities, background and varying probes that it found; probe: (mode, y, x),
           sqrt(photons)
    """
    scan = image.seen_by(scan)
    size = scan.patch_size
    n = scan.n_positions
    # One packed buffer, so that ranks meet in one sum: per-frame terms, then the two mean patterns.
    sums = np.zeros(2 * n + 2 * size * size, dtype=np.float64)
    numerators, denominators = sums[:n], sums[n : 2 * n]
    patterns = sums[2 * n :].reshape(2, size, size)
    corners = image.grid.corners_px(scan.positions_px, size)
    slices = torch.as_tensor(image.object[None] if image.slices is None else image.slices, device=device)
    between = slice_flight(image.slice_spacing_m, scan.geometry, size, device)
    background = 0.0 if image.background is None else torch.as_tensor(image.background, device=device)
    modes = torch.as_tensor(probe, device=device)
    propagator = Propagator.of(scan.geometry, size, device)
    good = np.ones((size, size), bool) if scan.mask is None else scan.mask
    weight = torch.as_tensor(good, dtype=torch.float32, device=device)
    for start in range(0, len(owned), batch_size):
        indices = owned[start : start + batch_size]
        counts = torch.as_tensor(scan.frames.read(indices).astype(np.float32), device=device)
        windows = Windows.at(torch.as_tensor(corners[indices], device=device), size, image.grid.shape)
        *_, exit_waves = traverse(_light(image, modes, indices), slices, windows, between)[-1]
        expected = propagator.to_file_order(intensity(propagator.forward(exit_waves))) + background
        amplitude = counts.sqrt() * weight
        difference = expected.sqrt() * weight - amplitude
        numerators[indices] = difference.abs().sum((-2, -1)).double().cpu().numpy()
        denominators[indices] = amplitude.sum((-2, -1)).double().cpu().numpy()
        patterns[0] += (counts * weight).sum(0).double().cpu().numpy()
        patterns[1] += difference.sum(0).double().cpu().numpy()
    ranks.all_sum(sums)
    return Residuals(
        r_factor=float(numerators.sum() / max(denominators.sum(), 1e-30)),
        frame_r_factor=(numerators / np.maximum(denominators, 1e-30)).astype(np.float32),
        mean_counts=(patterns[0] / n).astype(np.float32),
        mean_residual=(patterns[1] / n).astype(np.float32),
    )


def _light(image: ObjectImage, modes: Tensor, indices: NDArray[np.int64]) -> Tensor:
    """The probe of some frames: (mode, y, x), or (position, mode, y, x) where the image found that it varies."""
    intensity, shares = image.per_frame.get("intensity"), image.per_frame.get("probe_shares")
    if intensity is None and (shares is None or image.variations is None):
        return modes
    light = modes.expand(len(indices), *modes.shape).clone()
    if shares is not None and image.variations is not None:
        several = torch.as_tensor(shares[indices].astype(np.complex64), device=modes.device)
        light[:, 0] += torch.einsum("pk,kyx->pyx", several, torch.as_tensor(image.variations, device=modes.device))
    if intensity is not None:
        root = np.sqrt(intensity[indices].astype(np.float32))
        light *= torch.as_tensor(root, device=modes.device)[:, None, None, None]
    return light
