"""Simulated scans: object, probe, path and photons put together."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.simulate import SimulateConfig
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import ArrayFrames, Scan, Truth
from ptycho_torch.physics.forward import intensity, traverse
from ptycho_torch.physics.patches import Windows
from ptycho_torch.physics.propagate import Propagator, slice_flight
from ptycho_torch.simulate.objects import OBJECTS, ObjectOptions
from ptycho_torch.simulate.paths import PATHS
from ptycho_torch.simulate.probes import defocused, disk, gaussian, measured, with_modes, with_photons, zone_plate

logger = logging.getLogger(__name__)

# Complex pixels in flight at once: 32 MB each of patches, waves and their transforms.
CHUNK_PIXELS = 2**22


def simulate_scan(config: SimulateConfig, device: torch.device | None = None) -> Scan:
    """The scan that the configuration describes, with its truth.

    The same configuration gives the same scan on the same kind of device. Object, path, position errors and noise draw
    from streams of their own, so that changing the dose, say, leaves the object and the positions as they are.
    photons fall on the sample in each frame; what the object absorbs or scatters past the detector is not counted.
    Raises DataError when a measured probe cannot be used.
    """
    device = device or torch.device("cpu")
    object_seed, path_seed, error_seed, noise_seed, beam_seed = np.random.SeedSequence(config.seed).spawn(5)
    true_px, recorded_px, grid = _positions(config, path_seed, error_seed)
    options = ObjectOptions(
        phase_range_rad=config.phase_range_rad, amplitude_min=config.amplitude_min, feature_px=config.feature_px
    )
    slices = _slices(config, grid, options, _generator(object_seed, device))
    transmission = slices.prod(0)
    probe = true_probe(config).to(device)
    corners = torch.from_numpy(grid.corners_px(true_px, config.patch_size)).to(device)
    windows = Windows.at(corners, config.patch_size, grid.shape)
    beam = _Beam(config, beam_seed, probe)
    counts = _counts(slices, beam, windows, config, _generator(noise_seed, device))
    logger.info("Simulated %d frames of %d², %.3g counts each", *counts.shape[:2], counts.sum() / len(counts))
    start = start_probe(config)
    return Scan(
        name=config.name,
        path=None,
        frames=ArrayFrames(counts),
        positions_px=recorded_px,
        probe=None if start is None else start.numpy(),
        geometry=_geometry(config),
        truth=Truth(
            object=transmission.cpu().numpy(),
            grid=grid,
            probe=probe.cpu().numpy(),
            positions_px=true_px,
            slices=slices.cpu().numpy() if len(slices) > 1 else None,
            intensity=beam.intensity.numpy() if config.intensity_variation else None,
        ),
        provenance={"simulated": _plain(config)},
    )


def true_probe(config: SimulateConfig) -> Tensor:
    """The probe (mode, y, x) complex64 that lights the simulated object; all its modes together bring the photons."""
    if config.probe == "measured":
        assert config.probe_file is not None  # the configuration refuses a measured probe without a file
        modes = defocused(measured(config.probe_file, config.probe_key, config.patch_size), config.defocus_px2)
    else:
        modes = with_modes(_coherent_probe(config), config.mode_fractions)
    return with_photons(modes, config.photons)


def start_probe(config: SimulateConfig) -> Tensor | None:
    """The probe (mode, y, x) that a reconstruction of the simulated scan starts from, or None."""
    if config.start_probe == "none":
        return None
    if config.start_probe == "true":
        return true_probe(config)
    wrong = replace(
        config,
        start_probe="true",
        probe_defocus_px2=config.defocus_px2 * (1 + config.defocus_error),
        probe_aperture=min(config.probe_aperture * (1 + config.aperture_error), 0.5),
        probe_diameter_px=config.probe_diameter_px * (1 + config.aperture_error),
        probe_stop=config.probe_stop * (1 + config.stop_error),
    )
    return true_probe(wrong)


def _coherent_probe(config: SimulateConfig) -> Tensor:
    if config.probe == "zone_plate":
        return zone_plate(
            config.patch_size,
            aperture=config.probe_aperture,
            stop=config.probe_stop,
            defocus_px2=config.defocus_px2,
        )
    shape = gaussian if config.probe == "gaussian" else disk
    return shape(config.patch_size, diameter_px=config.probe_diameter_px, defocus_px2=config.defocus_px2)


def _positions(
    config: SimulateConfig, path_seed: np.random.SeedSequence, error_seed: np.random.SeedSequence
) -> tuple[NDArray[np.float64], NDArray[np.float64], ObjectGrid]:
    """True and recorded positions (position, 2), and a grid that starts at (0, 0) and holds the windows of both."""
    path = PATHS[config.path](config.n_positions, config.step_px, config.jitter_px, np.random.default_rng(path_seed))
    error = np.random.default_rng(error_seed).normal(0, 1, path.shape) * config.position_error_px
    error = error + _systematic_error(config, path)
    both = ObjectGrid.covering(np.concatenate([path, path + error]), config.patch_size)
    true_px = path - np.asarray(both.origin_px)
    return true_px, true_px + error, ObjectGrid(shape=both.shape)


def _systematic_error(config: SimulateConfig, path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Recorded minus true positions (position, 2) by a wrong scale, a turn, and a drift along a bent line."""
    centred = path - path.mean(axis=0)
    angle, scale = math.radians(config.position_rotation_deg), 1 + config.position_scale_error
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    time = np.linspace(0, 1, len(path))
    drift = np.stack([time**2, np.sin(0.75 * math.pi * time)], 1) * config.position_drift_px
    error: NDArray[np.float64] = centred @ turn.T - centred - drift
    return error


def _slices(config: SimulateConfig, grid: ObjectGrid, options: ObjectOptions, generator: torch.Generator) -> Tensor:
    """Transmissions (slice, y, x): one object, or several that share its phase and absorption among them."""
    n = config.n_slices
    part = replace(options, phase_range_rad=options.phase_range_rad / n, amplitude_min=options.amplitude_min ** (1 / n))
    return torch.stack([OBJECTS[config.object](grid.shape, part, generator) for _ in range(n)])


class _Beam:
    """The light of each frame: its intensity, and a part of the probe that changes.

    intensity: (position,) mean 1
    """

    def __init__(self, config: SimulateConfig, seed: np.random.SeedSequence, probe: Tensor) -> None:
        random = np.random.default_rng(seed)
        n = config.n_positions
        intensity = np.exp(config.intensity_variation * random.normal(size=n))
        self.intensity = torch.from_numpy(intensity / intensity.mean())
        self._probe, self._variation, self._share = probe, None, None
        if config.probe_variation:
            # The beam's pointing and shape: what modes with one node look like, in and out of phase with it.
            modes = with_modes(probe[0], (1 - config.probe_variation, *[config.probe_variation / 2] * 2))
            share = torch.from_numpy(random.normal(size=(n, 2)) + 1j * random.normal(size=(n, 2))) / math.sqrt(2)
            self._variation = modes[1:].to(probe.device)
            self._share = share.to(torch.complex64).to(probe.device)
            self._probe = torch.cat([modes[:1].to(probe.device), probe[1:]])

    def probe_of(self, frames: slice) -> Tensor:
        """The probes (position, mode, y, x) of some frames."""
        probe = self._probe.expand(len(self.intensity[frames]), *self._probe.shape).clone()
        if self._variation is not None and self._share is not None:
            probe[:, 0] += torch.einsum("pv,vyx->pyx", self._share[frames], self._variation)
        return probe * self.intensity[frames].sqrt().float().to(probe.device)[:, None, None, None]


def _counts(
    slices: Tensor, beam: _Beam, windows: Windows, config: SimulateConfig, generator: torch.Generator
) -> NDArray[np.generic]:
    """Poisson counts (position, y, x), centred, in the smallest of uint16 and uint32 that holds them."""
    counts: NDArray[np.generic] = np.empty((len(windows), windows.size, windows.size), dtype=np.uint16)
    propagator = Propagator.of(_geometry(config), windows.size, slices.device)
    between = slice_flight(config.slice_spacing_m, _geometry(config), windows.size, slices.device)
    chunk = max(1, CHUNK_PIXELS // (windows.size**2 * len(config.mode_fractions)))
    for first in range(0, len(windows), chunk):
        frames = slice(first, first + chunk)
        *_, exit_waves = traverse(beam.probe_of(frames), slices, windows[frames], between)[-1]
        expected = intensity(propagator.forward(exit_waves)) + config.background_photons
        drawn = propagator.to_file_order(torch.poisson(expected, generator=generator)).cpu().numpy()
        if counts.dtype == np.uint16 and drawn.max() > np.iinfo(np.uint16).max:
            counts = counts.astype(np.uint32)
        counts[first : first + chunk] = drawn
    return counts


def _geometry(config: SimulateConfig) -> Geometry:
    return Geometry(
        energy_eV=config.energy_eV,
        distance_m=config.distance_m,
        detector_pixel_m=(config.detector_pixel_m, config.detector_pixel_m),
        focus_distance_m=config.focus_distance_m,
    )


def _generator(seed: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _plain(config: SimulateConfig) -> dict[str, object]:
    """The configuration as JSON-like values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
