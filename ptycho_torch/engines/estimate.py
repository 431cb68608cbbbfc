"""What is being reconstructed, and how some frames look under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.engines.corrections import Correction
from ptycho_torch.engines.problem import Problem
from ptycho_torch.physics.forward import intensity, traverse
from ptycho_torch.physics.modulus import Background, modulus_change
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import fly, slice_flight


@dataclass
class Chunk:
    """Some frames of this rank on one slice of the object, as the estimate explains them.

    rows:    (position,) rows of `Problem.amplitude`
    windows: where they lie on the object
    patches: (position, y, x) slice under each window
    probe:   light on the slice: (mode, y, x), or (position, mode, y, x) where every frame has its own
    waves:   (position, mode, y, x) waves that leave the slice
    slice:   number of the slice
    before:  the same frames on the slice before; None on the first, and so for a thin object
    """

    rows: Tensor
    windows: Windows
    patches: Tensor
    probe: Tensor
    waves: Tensor
    slice: int = 0
    before: Chunk | None = None


# What leaves each slice should change by so much (position, mode, y, x), from the last slice back to the first.
Trace = list[tuple[Chunk, Tensor]]


class Estimate:
    """Object, probe and positions as they are now, with the corrections that bend the forward model for single frames.

    object:  (slice, y, x) complex64 on the problem's grid, one slice where the object is thin
    probe:   (mode, y, x) complex64
    windows: of this rank's frames
    """

    def __init__(
        self,
        problem: Problem,
        image: Tensor,
        probe: Tensor,
        corrections: Sequence[Correction] = (),
        slice_spacing_m: float | None = None,
    ) -> None:
        """image: (slice, y, x). Raises DataError when there is a spacing but no wavelength or object pixel."""
        self.problem, self.object, self.probe = problem, image, probe
        self.windows = problem.windows()
        self.corrections = tuple(corrections)
        # Counts that belong to no wave; a correction sets and moves them.
        self.background: Background | None = None
        self._between = slice_flight(slice_spacing_m, problem.geometry, problem.patch_size, problem.device)
        # Epochs done, whatever engine did them: when corrections begin depends on it.
        self.n_epochs = torch.zeros((), dtype=torch.int64)
        # A typical amplitude at the detector: the floor under dark pixels follows it.
        self.scale = math.sqrt(problem.mean_photons) / problem.patch_size

    def look(self, rows: Tensor) -> Chunk:
        """Patches, light and waves of some frames on the last slice; `before` leads to the first."""
        windows, probe = self.windows[rows], self.probe
        for correction in self.corrections:
            probe = correction.probe_of(rows, probe)
        chunk: Chunk | None = None
        for number, (light, patches, waves) in enumerate(traverse(probe, self.object, windows, self._between)):
            chunk = Chunk(rows, windows, patches, light, waves, number, chunk)
        assert chunk is not None  # an object has at least one slice
        return chunk

    def trace(self, chunk: Chunk, change: Tensor) -> Trace:
        """A change of the chunk's exit waves taken back from slice to slice, by the adjoint of the flight between."""
        found = [(chunk, change)]
        while chunk.before is not None:
            change = fly(chunk.patches.conj().unsqueeze(1) * change, self._between.conj())
            chunk = chunk.before
            found.append((chunk, change))
        return found

    def tangent(self, chunk: Chunk, image: Tensor | None, probe: Tensor | None) -> Tensor:
        """Change (position, mode, y, x) of the chunk's exit waves, to first order, when the estimate changes.

        image: (slice, y, x) change of the object; probe: (mode, y, x) change of the probe; None is no change
        """
        if chunk.before is not None:
            probe = fly(self.tangent(chunk.before, image, probe), self._between)
        by_light = None if probe is None else probe * chunk.patches.unsqueeze(1)
        if image is None:
            return torch.zeros_like(chunk.waves) if by_light is None else by_light
        by_slice = chunk.probe * extract_patches(image[chunk.slice], chunk.windows).unsqueeze(1)
        return by_slice if by_light is None else by_slice + by_light

    def expected(self, chunk: Chunk) -> Tensor:
        """Expected counts (position, y, x) of the chunk, in the amplitudes' order. Differentiable."""
        counts = intensity(self.problem.propagator.forward(chunk.waves))
        return counts if self.background is None else counts + self.background.counts

    def project(self, chunk: Chunk, waves: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the modulus projection adds to the chunk's exit waves (or to others of the same frames), and Σ|√k − √λ|.

        returns: (position, mode, y, x) complex, and a float32 scalar
        """
        amplitude = self.problem.amplitude.index_select(0, chunk.rows)
        problem, kernel = self.problem, self.problem.propagator.kernel
        background = self.background
        if waves is None:
            waves = chunk.waves
        elif background is not None:
            # Waves that are only on their way say nothing about the background.
            background = background.unseen()
        return modulus_change(waves, amplitude, problem.good, self.scale, kernel=kernel, background=background)
