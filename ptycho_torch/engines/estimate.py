"""What is being reconstructed, and how some frames look under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.engines.corrections import Correction
from ptycho_torch.engines.problem import Problem
from ptycho_torch.physics.forward import illuminate, intensity
from ptycho_torch.physics.modulus import Background, modulus_change
from ptycho_torch.physics.patches import Windows, extract_patches


@dataclass
class Chunk:
    """Some frames of this rank, as the estimate explains them.

    rows:    (position,) rows of `Problem.amplitude`
    windows: where they lie on the object
    patches: (position, y, x) object under each window
    probe:   (mode, y, x), or (position, mode, y, x) where a correction gives every frame its own
    waves:   (position, mode, y, x) exit waves
    """

    rows: Tensor
    windows: Windows
    patches: Tensor
    probe: Tensor
    waves: Tensor


class Estimate:
    """Object, probe and positions as they are now, with the corrections that bend the forward model for single frames.

    object: (y, x) complex64 on the problem's grid; probe: (mode, y, x) complex64; windows: of this rank's frames
    """

    def __init__(self, problem: Problem, image: Tensor, probe: Tensor, corrections: Sequence[Correction] = ()) -> None:
        self.problem, self.object, self.probe = problem, image, probe
        self.windows = problem.windows()
        self.corrections = tuple(corrections)
        # Counts that belong to no wave; a correction sets and moves them.
        self.background: Background | None = None
        # Epochs done, whatever engine did them: when corrections begin depends on it.
        self.n_epochs = torch.zeros((), dtype=torch.int64)
        # A typical amplitude at the detector: the floor under dark pixels follows it.
        self.scale = math.sqrt(problem.mean_photons) / problem.patch_size

    def look(self, rows: Tensor) -> Chunk:
        """Patches, probes and exit waves of some frames."""
        windows = self.windows[rows]
        patches, probe = extract_patches(self.object, windows), self.probe
        for correction in self.corrections:
            probe = correction.probe_of(rows, probe)
        return Chunk(rows, windows, patches, probe, illuminate(probe, patches))

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
