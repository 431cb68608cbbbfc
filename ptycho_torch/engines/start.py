"""Starts of an engine: probe and object in the package's gauge, and probe modes."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.parallel import Ranks
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.sums import share, share_canvas
from ptycho_torch.physics.patches import Windows, accumulate_pattern

# Power of each added mode relative to the first: enough to break the symmetry, too little to do harm.
_ADDED_MODE_POWER = 0.02
# Windows whose pixel indices are held at once while illumination is summed.
_WINDOW_PX = 2**17


def start_probe(probe: NDArray[np.complex64], problem: Problem, n_modes: int | None) -> Tensor:
    """The probe (mode, y, x) with the power that the data have and as many modes as asked for.

    Σ_m‖P_m‖² becomes the mean photons per frame, corrected for those that the probe alone would send to masked pixels.
    Raises ValueError when shape or values cannot be used.
    """
    size = problem.patch_size
    if probe.ndim != 3 or probe.shape[1:] != (size, size):
        raise ValueError(f"probe of shape {probe.shape}: must be (mode, {size}, {size}) as the frames are")
    if not np.isfinite(probe).all() or not probe.any():
        raise ValueError("the start probe is all zero or has values that are not finite; give another start")
    modes = torch.as_tensor(probe, dtype=torch.complex64, device=problem.device).clone()
    if n_modes is not None:
        modes = with_modes(modes, n_modes)
    seen = problem.propagator.forward(modes).abs().square()
    if problem.good is not None:
        seen = seen * problem.good
    counts = float(seen.sum(dtype=torch.float64))
    if not counts > 0:
        raise ValueError("the start probe sends no light to any good pixel; give another start or check the mask")
    return modes * math.sqrt(problem.mean_photons / counts)


def start_object(
    image: NDArray[np.complex64] | None, probe: Tensor, problem: Problem, ranks: Ranks, n_slices: int = 1
) -> tuple[Tensor, float]:
    """The object (slice, y, x), and the factor that an image was multiplied by.

    Flat, or an image (y, x) on the grid scaled so that it passes the data's mean photons. The image becomes the middle
    one of several slices: shares of a phase that has wrapped would have edges. Every rank must call it. Raises
    ValueError when shape or values cannot be used.
    """
    shape = problem.whole_grid.shape
    slices = torch.ones(n_slices, *problem.grid.shape, dtype=torch.complex64, device=problem.device)
    if image is None:
        return slices, 1.0
    if image.shape != shape:
        raise ValueError(f"object of shape {image.shape}: must be {shape} as the grid is")
    if not np.isfinite(image).all():
        raise ValueError(f"the start object has {int((~np.isfinite(image)).sum())} values that are not finite")
    if problem.tile is not None:
        image = problem.tile.cut(image)
    start = torch.as_tensor(image, dtype=torch.complex64, device=problem.device).clone()
    light = _own_light(probe, problem, problem.windows())
    passed_here = (torch.view_as_real(start).square().sum(-1) * light).sum(dtype=torch.float64)
    sums = torch.stack([passed_here, light.sum(dtype=torch.float64)])
    share(sums, ranks)
    passed, given = sums.tolist()
    if not passed > 0:
        raise ValueError("the start object is zero wherever light falls; give another start")
    scale = math.sqrt(given / passed)
    slices[n_slices // 2] = start * scale
    return slices, scale


def illumination(probe: Tensor, problem: Problem, ranks: Ranks, windows: Windows | None = None) -> Tensor:
    """Photons (y, x) float32 that fell on each object pixel, summed over all frames and ranks. Every rank must call.

    windows: where the frames lie now; None: where the scan records them
    """
    light = _own_light(probe, problem, windows or problem.windows())
    share_canvas(light, problem.tile, ranks)
    return light


def _own_light(probe: Tensor, problem: Problem, windows: Windows) -> Tensor:
    """Photons (y, x) that fell on each object pixel in this rank's frames."""
    light = torch.zeros(problem.grid.shape, device=problem.device)
    power = torch.view_as_real(probe).square().sum((0, -1))
    step = max(1, _WINDOW_PX // problem.patch_size**2)
    for start in range(0, len(windows), step):
        accumulate_pattern(light, power, windows[start : start + step])
    return light


def with_modes(probe: Tensor, n_modes: int) -> Tensor:
    """The strongest `n_modes` of a probe, filled up with weak Hermite-like modes: the first times powers of y and x."""
    probe = orthogonal_modes(probe)[:n_modes]
    missing = n_modes - len(probe)
    if missing <= 0:
        return probe
    first = probe[0]
    size = first.shape[-1]
    weight = first.abs().square()
    axis = torch.arange(size, device=probe.device, dtype=torch.float32) - size // 2
    y, x = axis[:, None].expand(size, size), axis.expand(size, size)
    y, x = y - (weight * y).sum() / weight.sum(), x - (weight * x).sum() / weight.sum()
    degrees = [(total - i, i) for total in range(1, n_modes + 1) for i in range(total + 1)]
    added: list[Tensor] = []
    for a, b in degrees[:missing]:
        mode = first * y**a * x**b
        for other in [*probe, *added]:
            mode = mode - other * torch.vdot(other.flatten(), mode.flatten()) / other.abs().square().sum()
        added.append(mode * (_ADDED_MODE_POWER * weight.sum() / mode.abs().square().sum()).sqrt())
    return torch.cat([probe, torch.stack(added)])


def orthogonal_modes(probe: Tensor) -> Tensor:
    """The same incoherent light as orthogonal modes (mode, y, x), strongest first (Thibault & Menzel 2013)."""
    if len(probe) == 1:
        return probe
    flat = probe.flatten(1).to(torch.complex128)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    turned: Tensor = vectors.flip(1).mH @ flat
    return turned.view(probe.shape).to(probe.dtype)
