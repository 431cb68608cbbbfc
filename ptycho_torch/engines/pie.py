"""rPIE and ePIE in batches, with momentum from epoch to epoch."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage
from ptycho.parallel import Ranks
from ptycho_torch.engines.interface import EpochResult
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.schedule import Momentum, annealed_step, check_convergence, damping, has_overshot, has_risen
from ptycho_torch.engines.start import illumination, orthogonal_modes, start_object, start_probe
from ptycho_torch.physics.forward import illuminate
from ptycho_torch.physics.modulus import modulus_change
from ptycho_torch.physics.patches import accumulate_patches, accumulate_pattern, extract_patches

# Wave pixels handled at once on a CPU: 1 MB of complex64 stays in the cache, which halves the time of a sweep.
_CHUNK_PX_CPU = 2**17
_CHUNK_PX_GPU = 2**26


class Pie:
    """The regularised ptychographical iterative engine.

    For each batch, O += s·Σ_j P*Δψ_j / ((1 − α)·w + α·max w) with w = Σ_j |P|² under each pixel; the probe likewise
    with Σ_j O_j* Δψ_j and Σ_j |O_j|² (Maiden, Johnson & Li 2017, eq. 21 and 22, summed over a batch). Sums over
    modes are inside numerators and w. Batches are made from the whole scan; ranks add their members' sums.
    """

    def __init__(
        self,
        problem: Problem,
        config: RefineConfig,
        ranks: Ranks,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """probe: (mode, y, x), any power; object_start: (y, x) on the problem's grid, any scale, or None for flat.

        Every rank must call it with the same starts. Raises ValueError when a start cannot be used.
        """
        self.config = config
        self._problem, self._ranks, self._seed = problem, ranks, seed
        self._windows = problem.windows()
        self._probe = start_probe(probe, problem, config.probe_modes)
        self._object = start_object(object_start, self._probe, problem, ranks)
        self._power = float(self._probe.abs().square().sum(dtype=torch.float64))
        self._object_momentum = Momentum(config.momentum, self._object)
        self._probe_momentum = Momentum(config.probe_momentum, self._probe)
        self._history: list[float] = []
        self._sums = _Sums(self._object, self._probe)
        self._batch_size = config.batch_size or default_batch_size(problem.n_total)
        limit = _CHUNK_PX_CPU if problem.device.type == "cpu" else _CHUNK_PX_GPU
        self._chunk = max(1, limit // self._probe.numel())
        self._alpha = config.object_alpha(problem.mean_photons / problem.patch_size**2)
        self._scale = math.sqrt(problem.mean_photons) / problem.patch_size

    @property
    def grid(self) -> ObjectGrid:
        return self._problem.grid

    @property
    def object(self) -> NDArray[np.complex64]:
        """(y, x) transmission on `grid`; the probe has the photons of the data."""
        image: NDArray[np.complex64] = (self._object / self._gauge()).cpu().numpy()
        return image

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(mode, y, x), sqrt(photons), orthogonal modes, strongest first."""
        modes: NDArray[np.complex64] = orthogonal_modes(self._probe * self._gauge()).cpu().numpy()
        return modes

    def image(self) -> ObjectImage:
        """Object, probe and coverage (photons per object pixel). Every rank must call it."""
        light = illumination(self._probe * self._gauge(), self._problem, self._ranks)
        return ObjectImage(object=self.object, coverage=light.cpu().numpy(), grid=self.grid, probe=self.probe)

    @torch.no_grad()
    def run_epoch(self, epoch: int) -> EpochResult:
        """Sweep once over all frames; see `Engine.run_epoch`."""
        started_s = time.perf_counter()
        step = annealed_step(epoch, self.config) * damping(self._history)
        moves_probe = self.config.update_probe and epoch >= self.config.probe_start_epoch
        object_before, probe_before = self._object.clone(), self._probe.clone()
        missed = torch.zeros((), dtype=torch.float64, device=self._problem.device)
        for members in self._problem.batches(self._batch_size, self._seed, epoch):
            self._sums.clear()
            for start in range(0, len(members), self._chunk):
                self._collect(members[start : start + self._chunk], moves_probe)
            self._sums.share(self._ranks)
            missed += self._sums.missed
            self._update(step, moves_probe)
        self._history.append(float(missed) / self._problem.amplitude_sum)
        is_converged = check_convergence(self._history, self.config)
        if has_risen(self._history):
            self._object_momentum.restart()
            self._probe_momentum.restart()
        # A sweep that overshot is not partly done again: that would go further uphill.
        if not has_overshot(self._history):
            self._object_momentum.push(self._object, object_before, step)
            if moves_probe:
                self._probe_momentum.push(self._probe, probe_before, step)
        return EpochResult(
            epoch=epoch,
            r_factor=self._history[-1],
            seconds=time.perf_counter() - started_s,
            step=step,
            is_converged=is_converged,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next epoch depends on, as copies on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._state().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken. Raises ValueError when the state is of another problem."""
        own = self._state()
        for name, tensor in own.items():
            if name not in state or (name != "history" and state[name].shape != tensor.shape):
                found = tuple(state[name].shape) if name in state else "absent"
                raise ValueError(f"engine state {name!r} is {found}, this scan needs {tuple(tensor.shape)}")
        for name, tensor in own.items():
            if name != "history":
                tensor.copy_(state[name])
        self._history = state["history"].tolist()

    def _state(self) -> dict[str, Tensor]:
        return {
            "object": self._object,
            "probe": self._probe,
            "object_velocity": self._object_momentum.velocity,
            "probe_velocity": self._probe_momentum.velocity,
            "history": torch.tensor(self._history, dtype=torch.float64),
        }

    def _gauge(self) -> float:
        """Factor that gives the probe the photons of the data; the object is divided by it."""
        return math.sqrt(self._power / float(self._probe.abs().square().sum(dtype=torch.float64)))

    def _collect(self, rows: Tensor, moves_probe: bool) -> None:
        """Add the numerators and weights of some frames of this rank to the batch's sums."""
        sums, windows = self._sums, self._windows[rows]
        patches = extract_patches(self._object, windows)
        waves = illuminate(self._probe, patches)
        change, missed = modulus_change(
            waves, self._problem.amplitude.index_select(0, rows), self._problem.good, self._scale
        )
        sums.missed += missed
        accumulate_pattern(sums.object_weight, torch.view_as_real(self._probe).square().sum((0, -1)), windows)
        if moves_probe:
            sums.probe += (patches.conj().unsqueeze(1) * change).sum(0)
            sums.probe_weight += torch.view_as_real(patches).square().sum(0).sum(-1)
        change *= self._probe.conj()
        accumulate_patches(sums.object, change[:, 0] if change.shape[1] == 1 else change.sum(1), windows)

    def _update(self, step: float, moves_probe: bool) -> None:
        """Move object and probe by the batch's sums."""
        sums, config = self._sums, self.config
        _move(self._object, sums.object, sums.object_weight, self._alpha, step * config.object_step)
        if moves_probe:
            _move(self._probe, sums.probe, sums.probe_weight, config.effective_probe_alpha, step * config.probe_step)


def default_batch_size(n_frames: int) -> int:
    """A 32nd of the scan, at least 32, and never so much that an epoch has fewer than 8 batches.

    One batch of all frames moves object and probe at once by full steps that each explain the whole residual: together
    they overshoot, and small scans diverge.
    """
    return max(1, min(max(32, math.ceil(n_frames / 32)), n_frames // 8))


def _move(target: Tensor, numerator: Tensor, weight: Tensor, alpha: float, step: float) -> None:
    """target += step · numerator / ((1 − alpha)·weight + alpha·max weight); reuses the memory of both."""
    largest = weight.max()
    # Without light in the batch the numerator is zero too; the floor keeps 0/0 out.
    weight.mul_(1 - alpha).add_((alpha * largest).clamp(min=torch.finfo(weight.dtype).tiny))
    target.add_(numerator.mul_(weight.reciprocal_()), alpha=step)


class _Sums:
    """Numerators and weights of one batch in one buffer, so that ranks meet once per batch."""

    def __init__(self, image: Tensor, probe: Tensor) -> None:
        sizes = [2 * image.numel(), 2 * probe.numel(), image.numel(), probe[0].numel(), 1]
        self._packed = torch.zeros(sum(sizes), device=image.device)
        parts = torch.split(self._packed, sizes)
        self.object = torch.view_as_complex(parts[0].view(*image.shape, 2))
        self.probe = torch.view_as_complex(parts[1].view(*probe.shape, 2))
        self.object_weight = parts[2].view(image.shape)
        self.probe_weight = parts[3].view(probe.shape[1:])
        self.missed = parts[4][0]

    def clear(self) -> None:
        self._packed.zero_()

    def share(self, ranks: Ranks) -> None:
        """Replace by the sum over ranks."""
        if ranks.size == 1:
            return
        host = self._packed.cpu()
        ranks.all_sum(host)
        if host is not self._packed:
            self._packed.copy_(host)
