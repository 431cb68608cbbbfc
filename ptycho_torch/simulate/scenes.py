"""Scenes: groups of frames of objects and probes drawn at random, for training a network that shall know many."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ptycho.config.synthetic import SyntheticConfig
from ptycho.errors import DataError
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import far_field, near_sample, to_centred, to_fft_order
from ptycho_torch.simulate.objects import OBJECTS, ObjectOptions
from ptycho_torch.simulate.patterns import radial_frequency
from ptycho_torch.simulate.probes import defocused, disk, gaussian, zone_plate

# Free pixels around the windows of a scene, as a share of the frame: frames lie apart by up to this.
ROOM = 0.5
# Largest share of a zone plate's radius that its central stop takes.
LARGEST_STOP = 0.4


class Groups(NamedTuple):
    """Groups of frames with truth.

    counts:       (group, frame, y, x) float32, FFT order
    positions_px: (group, frame, 2) float64, window centres (y, x); the first frame is the group's centre
    truth:        (group, frame, y, x) complex64, the central half of the object under each frame
    probes:       (group, frame, 1, y, x) complex64, what a network is told, √photons
    true_probes:  the same shape, what made the counts
    """

    counts: Tensor
    positions_px: Tensor
    truth: Tensor
    probes: Tensor
    true_probes: Tensor


def draw_scene(
    config: SyntheticConfig, size: int, n_groups: int, gridsize: int, bank: list[Tensor], generator: torch.Generator
) -> Groups:
    """Groups of gridsize² frames of `size` pixels from one object, each group under a probe of its own.

    bank: measured probes, as `read_probes` gives them. Everything is drawn from the generator, on its device.
    """
    told, true = draw_probes(config, size, n_groups, bank, generator)
    photons = _log_uniform(config.photons, (n_groups,), generator)
    told, true = (_with_photons(probe, photons) for probe in (told, true))
    extent = size + math.ceil(ROOM * size)
    positions = _draw_positions(config, size, extent, n_groups, gridsize**2, generator)
    object_ = _draw_object(config, extent, generator)
    n_frames = gridsize**2
    corners = positions.flatten(0, 1) - size // 2
    patches = extract_patches(object_, Windows.at(corners, size, (extent, extent)))
    light, shown = (probe.repeat_interleave(n_frames, 0)[:, None] for probe in (true, told))
    counts = torch.poisson(expected_counts(light, patches), generator=generator)
    shape = (n_groups, n_frames)
    low = size // 2 - size // 4
    truth = patches[:, low : low + size // 2, low : low + size // 2]
    return Groups(
        counts.view(*shape, size, size),
        positions,
        truth.reshape(*shape, size // 2, size // 2),
        shown.view(*shape, 1, size, size),
        light.view(*shape, 1, size, size),
    )


def draw_probes(
    config: SyntheticConfig, size: int, n: int, bank: list[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """n probes (n, y, x) as a network is told them, and as they are. One kind for all, everything else for each."""
    kind = config.probes[_choice(len(config.probes), generator)]
    diameter = _uniform(config.probe_diameter, (n,), generator) * size
    wrong = (torch.rand(n, generator=generator, device=generator.device) < config.wrong_share) * config.probe_error
    errors = [1 + wrong * (2 * torch.rand(n, generator=generator, device=generator.device) - 1) for _ in range(3)]
    errors[1] = 1 + (errors[1] - 1) / 3
    sign = torch.where(torch.rand(n, generator=generator, device=generator.device) < 0.5, -1.0, 1.0)
    if kind == "zone_plate":
        aperture = _uniform((0.12, 0.3), (n,), generator)
        stop = aperture * _uniform((0, LARGEST_STOP), (n,), generator)
        defocus = sign * diameter / 2 / aperture
        made = [
            zone_plate(size, aperture=aperture * e[1], stop=stop * e[2], defocus_px2=defocus * e[0])
            for e in (errors, [torch.ones(n)] * 3)
        ]
        return made[0], made[1]
    # A curvature that turns the phase by a few radians across the beam.
    defocus = sign * _uniform((0, 1), (n,), generator) * diameter.square() / 12
    if kind == "file":
        chosen = [bank[_choice(len(bank), generator)] for _ in range(n)]
        widths = diameter * errors[1]
        wrongs = torch.stack([scaled(probe, float(width), size) for probe, width in zip(chosen, widths, strict=True)])
        rights = torch.stack([scaled(probe, float(width), size) for probe, width in zip(chosen, diameter, strict=True)])
        return defocused(wrongs, defocus * (errors[0] - 1)), rights
    shape = gaussian if kind == "gaussian" else disk
    width = 0.6 * diameter if kind == "gaussian" else 0.8 * diameter
    told = defocused(shape(size, diameter_px=width * errors[1]), defocus * errors[0])
    return told, defocused(shape(size, diameter_px=width), defocus)


def read_probes(path: Path) -> list[Tensor]:
    """The strongest mode (y, x) complex64 of every array of an .npz file. Raises DataError when one is no probe."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError) as error:
        raise DataError(f"{path} cannot be read as an .npz file of probes ({error}).") from error
    found = []
    for name, array in arrays.items():
        if array.ndim < 2 or array.shape[-1] != array.shape[-2] or not np.isfinite(array).all() or not array.any():
            raise DataError(f"{path}, array {name}: shape {array.shape}; a probe is (…, y, x), square, finite, not 0.")
        modes = torch.from_numpy(array.reshape(-1, *array.shape[-2:]).astype(np.complex64))
        found.append(modes[modes.abs().square().sum((-2, -1)).argmax()])
    if not found:
        raise DataError(f"{path} holds no array; a file of probes has one or more, each (…, y, x) complex.")
    return found


def scaled(probe: Tensor, diameter_px: float, size: int) -> Tensor:
    """A probe (y, x) enlarged or reduced so that a circle of this diameter holds 90 % of its power; (size, size).

    Resampled through its own spectrum, centred on its centre of mass.
    """
    n = probe.shape[-1]
    power = probe.abs().square()
    axis = torch.arange(n, dtype=torch.float32)
    centre = [(power.sum(other) * axis).sum() / power.sum() for other in (1, 0)]
    radius = torch.hypot(axis[:, None] - centre[0], axis - centre[1]).flatten()
    order = radius.argsort()
    held = power.flatten()[order].cumsum(0)
    inner = float(radius[order][int((held < 0.9 * held[-1]).sum())])
    step = max(inner, 1.0) * 2 / diameter_px
    # Where the new pixels lie on the old ones, as grid_sample counts: -1 and 1 are the outer edges.
    along = (torch.arange(size) - size // 2) * step
    places = [(along + middle + 0.5) * 2 / n - 1 for middle in centre]
    grid = torch.stack(torch.meshgrid(places[0], places[1], indexing="ij")[::-1], -1)[None]
    image = torch.view_as_real(_band_limited(probe, step)).movedim(-1, 0)[None]
    sampled = functional.grid_sample(image, grid, mode="bicubic", padding_mode="zeros", align_corners=False)[0]
    return torch.complex(sampled[0], sampled[1])


def _band_limited(probe: Tensor, step: float) -> Tensor:
    """The probe without the frequencies that pixels `step` times as large cannot hold."""
    if step <= 1:
        return probe
    keep = radial_frequency((probe.shape[-1], probe.shape[-1]), probe.device) < 0.5 / step
    return to_centred(near_sample(far_field(to_fft_order(probe)) * keep))


def _draw_object(config: SyntheticConfig, extent: int, generator: torch.Generator) -> Tensor:
    options = ObjectOptions(
        phase_range_rad=float(_log_uniform(config.phase_range_rad, (), generator)),
        amplitude_min=float(_uniform(config.amplitude_min, (), generator)),
        feature_px=float(_log_uniform(config.feature_px, (), generator)),
    )
    return OBJECTS[config.objects[_choice(len(config.objects), generator)]]((extent, extent), options, generator)


def _draw_positions(
    config: SyntheticConfig, size: int, extent: int, n_groups: int, n_frames: int, generator: torch.Generator
) -> Tensor:
    """(group, frame, 2): a centre anywhere in the scene, then its nearest neighbours on a jittered lattice."""
    device = generator.device
    low, high = size / 2, extent - size / 2 - 1
    centres = _uniform((low, high), (n_groups, 1, 2), generator)
    if n_frames == 1:
        return centres.double()
    reach = math.ceil(math.sqrt(n_frames))
    axis = torch.arange(-reach, reach + 1, device=device, dtype=torch.float32)
    lattice = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, -1, 2)
    jitter = 0.4 * (torch.rand((n_groups, lattice.shape[1], 2), generator=generator, device=device) - 0.5)
    jitter[(lattice == 0).all(-1).expand(n_groups, -1)] = 0
    width = sum(config.probe_diameter) / 2 * size
    offsets = (lattice + jitter) * (_uniform(config.step, (n_groups, 1, 1), generator) * width)
    near = offsets.square().sum(-1).argsort(1)[:, :n_frames]
    positions = centres + offsets.gather(1, near[..., None].expand(-1, -1, 2))
    # A neighbour beyond the scene's edge comes back to it.
    return positions.clamp(low, high).double()


def _with_photons(probes: Tensor, photons: Tensor) -> Tensor:
    power = probes.abs().square().sum((-2, -1))
    return probes * (photons / power).sqrt()[:, None, None]


def _choice(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator, device=generator.device))


def _uniform(span: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = span
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _log_uniform(span: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _uniform((math.log(span[0]), math.log(span[1])), shape, generator).exp()
