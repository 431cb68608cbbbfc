"""A probe to start from: made of the mean pattern where a scan has none, and brought into focus where it is off."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.data.scan import Scan
from ptycho.data.subset import subset
from ptycho.errors import DataError
from ptycho.parallel import Ranks, SerialRanks
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import Problem, load_problem
from ptycho_torch.physics.propagate import flight

log = logging.getLogger(__name__)

# Frames, neighbours of one another, on which a focus is tried, and sweeps over them.
_FRAMES, _EPOCHS = 100, 10
# A defocus is told from another when they differ by about a depth of focus, 1/radius² of the far field; coarse values
# lie a part of it apart, and a step is halved this often about the best.
_COARSE, _HALVINGS = 0.6, 3
# How far a guess may spread: the part of the window that it fills at most. How far a given probe may be off, in depths.
_FILLED, _REACH_DEPTHS = 0.7, 3.0
_MOST_VALUES = 41
# Of the light in the far field, the part inside the radius that counts as its aperture.
_INSIDE = 0.9


def choose_probe(
    scan: Scan, config: RefineConfig, ranks: Ranks, probe: NDArray[np.complex64] | None
) -> NDArray[np.complex64]:
    """The probe (mode, y, x) to start from, as `probe_start` asks for. Every rank must call it and gets the same.

    probe: the scan's own, or None
    Raises DataError when there is none and none may be made.
    """
    if config.probe_start != "guess" and probe is None:
        raise DataError(
            f"{scan.path or scan.name} holds no probe, and the engine needs a first guess of it. Add one to the file"
            ' (dataset /probe of our own layout, see docs/data-formats.md), or set refine.probe_start = "guess" to make'
            " one of the mean pattern."
        )
    if probe is not None and config.probe_start == "scan":
        return probe
    made = _made(scan, config, probe) if ranks.rank == 0 else None
    chosen = ranks.broadcast(made)
    assert chosen is not None
    return chosen


def _made(scan: Scan, config: RefineConfig, probe: NDArray[np.complex64] | None) -> NDArray[np.complex64]:
    """The probe made or focused, on one rank."""
    problem = load_problem(_central_part(scan), np.arange(min(_FRAMES, scan.n_positions)), SerialRanks())
    if config.probe_start == "autofocus" and probe is not None:
        modes = torch.as_tensor(probe)
        depth = 1 / _aperture(torch.fft.fft2(modes).abs().square().sum(0)) ** 2
        found, value = _focused(problem, config, modes, _REACH_DEPTHS * depth, depth, moves_probe=False)
        log.info("The start probe was moved by λz/dx² = %.1f px² to the best focus", value)
        return found
    root = problem.mean_counts.sqrt()
    waves = problem.propagator.adjoint(root.to(torch.complex64))[None]
    if problem.propagator.kernel is not None:
        log.info("The start probe was made of the mean shadow, brought back to the sample")
        return _array(waves)
    centred = torch.fft.fftshift(waves, dim=(-2, -1))
    radius = _aperture(problem.mean_counts)
    spread = max(_FILLED * problem.patch_size / 2 / radius, 1 / radius**2)
    found, value = _focused(problem, config, centred, spread, 1 / radius**2, moves_probe=True)
    log.info("The start probe was made of the mean pattern, at a defocus of λz/dx² = %.1f px²", value)
    return found


def _focused(
    problem: Problem, config: RefineConfig, probe: Tensor, reach: float, depth: float, *, moves_probe: bool
) -> tuple[NDArray[np.complex64], float]:
    """The probe after the flight, from −reach to reach (λz/dx² in px²), that explains the problem's frames best."""
    trial = RefineConfig(
        epochs=_EPOCHS,
        probe_modes=config.probe_modes,
        update_probe=moves_probe,
        probe_start_epoch=3,
        stop_at_plateau=False,
    )

    def r_factor(distance: float) -> float:
        engine = Pie(problem, trial, SerialRanks(), _array(flown(probe, distance)))
        return min(engine.run_epoch(epoch).r_factor for epoch in range(1, _EPOCHS + 1))

    n = min(_MOST_VALUES, 2 * math.ceil(reach / (_COARSE * depth)) + 1)
    values = np.linspace(-reach, reach, n)
    tried = {float(value): r_factor(float(value)) for value in values}
    step = float(values[1] - values[0])
    for _ in range(_HALVINGS):
        step /= 2
        best = min(tried, key=tried.__getitem__)
        tried |= {value: r_factor(value) for value in (best - step, best + step)}
    best = min(tried, key=tried.__getitem__)
    return _array(flown(probe, best)), best


def flown(probe: Tensor, distance_px2: float) -> Tensor:
    """A centred probe (mode, y, x) after free flight by λz/dx² in square pixels; positive is upstream of the sample.

    In the convention of the simulated probes, whose far field has the phase +π·λz/dx²·f² before the focus.
    """
    transfer = flight(probe.shape[-1], -distance_px2, probe.device)
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(probe) * transfer)
    return result


def _central_part(scan: Scan) -> Scan:
    """The frames nearest to the middle of the scan."""
    middle = np.median(scan.positions_px, axis=0)
    nearest = np.argsort(((scan.positions_px - middle) ** 2).sum(1), kind="stable")[:_FRAMES]
    part = subset(scan, np.sort(nearest))
    return replace(part, object_grid=None, object_start=None)


def _aperture(pattern: Tensor) -> float:
    """Radius, in cycles per pixel, about the centre that holds most of the light of a pattern (y, x) in FFT order."""
    size = pattern.shape[-1]
    frequency = torch.fft.fftfreq(size)
    radius = torch.hypot(frequency[:, None], frequency[None, :]).flatten()
    order = radius.argsort()
    light = pattern.detach().cpu().flatten()[order].double().cumsum(0)
    inside = int((light < _INSIDE * light[-1]).sum())
    return max(float(radius[order[min(inside, len(order) - 1)]]), 2 / size)


def _array(probe: Tensor) -> NDArray[np.complex64]:
    array: NDArray[np.complex64] = probe.cpu().numpy().astype(np.complex64)
    return array
